"""PAROAttention as whole-block matrix products: the reference's results, many times faster.

What differs from the reference is only the order of sums, so quality measured here is the op's.
"""

import itertools
import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from paro_trt.errors import ArgumentError
from paro_trt.op.blocks import HeadKeys, Precision, prepare_keys
from paro_trt.op.quantization import (
    ChannelAffine,
    Quantized,
    quantize,
    quantize_probabilities,
)
from paro_trt.op.spec import AttentionConfig

FLOAT32 = Precision(torch.float32, None)


@dataclass(frozen=True)
class AttentionCall:
    """One attention layer of one forward.

    query, key, value: f32 [B, S, H, D], after RoPE; timestep: 0..1000; scale: on the logits.
    """

    layer: int
    timestep: float
    query: Tensor
    key: Tensor
    value: Tensor
    scale: float


class Selection(NamedTuple):
    """What each head attends, and in which order; G is 1 (all samples alike) or B.

    order: int64 [G, H, S]; mask: bool [G, H, NQ, NK].
    """

    order: Tensor
    mask: Tensor


class _Keys(NamedTuple):
    """Dequantised keys of one head, f32: tokens [NK, block_k, D], summaries [N, D] (N = 0 where
    dropped blocks vanish) and what a summary adds to its logit, [N]."""

    key: Tensor
    value: Tensor
    summary_key: Tensor
    summary_value: Tensor
    summary_bias: Tensor


def selected_attention(
    call: AttentionCall, selection: Selection, config: AttentionConfig, affine: Tensor | None = None
) -> Tensor:
    """Attention f32 [B, S, H, D] over the selected blocks, as `paro_attention_reference`.

    Args:
        call: its scale replaces the config's.
        selection: orders and masks.
        config: block sizes, bits, pooling.
        affine: channel_affine f32 [4, H, D]; None is the identity.

    Raises:
        ArgumentError: S is no multiple of both block sizes.
    """
    batch, tokens, heads, channels = call.query.shape
    if tokens % config.block_q or tokens % config.block_k:
        raise ArgumentError("tokens", expected="a multiple of the blocks", actual=str(tokens))
    if affine is None:
        affine = torch.tensor([0.0, 1.0, 0.0, 1.0])[:, None, None].expand(4, heads, channels)
    config = replace(config, scale=call.scale)
    output = torch.empty_like(call.query)
    for sample, head in itertools.product(range(batch), range(heads)):
        group = sample if len(selection.mask) > 1 else 0
        order = selection.order[group, head]
        output[sample, order, head] = _attend_head(
            call.query[sample, order, head],
            call.key[sample, order, head],
            call.value[sample, order, head],
            selection.mask[group, head],
            ChannelAffine.of_head(affine, head, config),
            config,
        )
    return output


def _attend_head(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    affine: ChannelAffine,
    config: AttentionConfig,
) -> Tensor:
    """[S, D] of one head with the mask bool [NQ, NK]; inputs [S, D] in its order."""
    keys = _prepare(prepare_keys(key, value, len(key), affine, config, FLOAT32))
    query = _dequantised(quantize(query * affine.equalizer, config.qk_bits, (1,)))
    tiles = [
        _attend_tile(tile * config.scale, keys, mask[index], config)
        for index, tile in enumerate(query.split(config.block_q))
    ]
    return torch.cat(tiles) * affine.value_scale + affine.value_mean


def _prepare(keys: HeadKeys) -> _Keys:
    none = torch.zeros(len(keys.exists), dtype=torch.bool)
    summaries = keys.tokens.select(none) if keys.summaries is None else keys.summaries
    return _Keys(
        _dequantised(keys.tokens.key),
        _dequantised(keys.tokens.value),
        _dequantised(summaries.key).flatten(0, 1),
        _dequantised(summaries.value).flatten(0, 1),
        summaries.log2_count.flatten() * math.log(2),
    )


def _attend_tile(query: Tensor, keys: _Keys, attended: Tensor, config: AttentionConfig) -> Tensor:
    """[block_q, D] of one query block, whose mask row is `attended`, bool [NK]."""
    key, value = keys.key[attended].flatten(0, 1), keys.value[attended].flatten(0, 1)
    bias = torch.zeros(len(key))
    if config.pool_dropped:
        summary_bias = keys.summary_bias.clone()
        summary_bias[: len(attended)][attended] = -math.inf
        bias = torch.cat([bias, summary_bias])
        key = torch.cat([key, keys.summary_key])
        value = torch.cat([value, keys.summary_value])
    logits = torch.addmm(bias, query, key.T)
    if config.pv_bits == 16:
        return logits.softmax(dim=1) @ value
    probability = _quantised_probability(logits, config)
    return (probability @ value) / probability.sum(dim=1, keepdim=True)


def _quantised_probability(logits: Tensor, config: AttentionConfig) -> Tensor:
    """Unnormalised P [block_q, N * block_k], each (row, key block) quantised by its maximum."""
    blocks = logits.unflatten(1, (-1, config.block_k))
    block_maximum = blocks.amax(dim=2, keepdim=True)
    weight = (block_maximum - block_maximum.amax(dim=1, keepdim=True)).exp()
    # A summary block whose tokens are all attended themselves is -inf throughout; it has weight 0.
    reference = block_maximum.masked_fill(torch.isneginf(block_maximum), 0.0)
    codes = quantize_probabilities((blocks - reference).exp(), config.pv_bits)
    return (codes * weight).flatten(1)


def _dequantised(values: Quantized) -> Tensor:
    return values.codes * values.scale
