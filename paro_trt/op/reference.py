"""The specification of PAROAttention in plain PyTorch: one function a stage.

Read quantization.py, then blocks.py (stage 1), then this file (stage 2 and the whole).
Kernels, CPU backend, ONNX function body and plugin are tested against it. It computes in
float32 (what a faithful implementation computes) or, with `exact`, in float64 (the oracle).
Quantization itself is always FP32 arithmetic with a fixed order of operations, so that integer
codes are equal bit for bit in every implementation; only sums are free to differ by rounding.

Method: PAROAttention, arXiv 2506.16054; the per-block maximum for P, the channel affine and the
summary tokens are this project's (docs/design.md, section 5).
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from .blocks import HeadKeys, KeyBlocks, Precision, prepare_keys
from .mask import unpack_block_mask
from .quantization import ChannelAffine, Quantized, quantize, quantize_probabilities
from .spec import AttentionConfig, AttentionInputs, block_count


def attention_scores(
    query: Quantized, keys: KeyBlocks, scale: float, compute: torch.dtype
) -> Tensor:
    """Base-2 logits [block_q, N, block_k] of one query block: q . k * scale * log2(e) + log2_count.

    query: codes [block_q, D], scale [block_q, 1]; keys of N blocks.
    """
    blocks, width, channels = keys.key.codes.shape
    products = query.codes.to(compute) @ keys.key.codes.to(compute).reshape(-1, channels).T
    factor = query.scale.to(compute) * keys.key.scale.to(compute)[:, 0, 0]
    logits = (
        products.view(len(products), blocks, width)
        * (factor * (scale * math.log2(math.e)))[:, :, None]
    )
    absent = torch.isneginf(keys.log2_count)
    return torch.where(absent, -math.inf, logits + keys.log2_count.to(compute))


class BlockSoftmax(NamedTuple):
    """Unnormalised softmax of one query block over N key blocks.

    probability: [block_q, N, block_k], relative to the maximum of its (row, key block);
    weight: [block_q, N], that maximum relative to the row's.
    """

    probability: Tensor
    weight: Tensor


def block_softmax(logits: Tensor) -> BlockSoftmax:
    """Softmax in base 2, each key block against its own maximum.

    P quantized against a running or row maximum would lose the blocks far below it.
    """
    block_maximum = logits.amax(dim=2)
    row_maximum = block_maximum.amax(dim=1, keepdim=True)
    # A block or row of -inf has no weight; subtracting -inf would make it NaN instead.
    block_reference = block_maximum.masked_fill(torch.isneginf(block_maximum), 0.0)
    row_reference = row_maximum.masked_fill(torch.isneginf(row_maximum), 0.0)
    probability = torch.exp2(logits - block_reference[:, :, None])
    return BlockSoftmax(probability, torch.exp2(block_maximum - row_reference))


def weighted_values(
    softmax: BlockSoftmax, values: Quantized, affine: ChannelAffine, bits: int, precision: Precision
) -> Tensor:
    """Attention output [block_q, D]; rows with nothing to attend are 0.

    Numerator and row sum both come from the quantized P, so that rows of P sum to one and the
    value affine can be undone at the end.
    """
    codes = quantize_probabilities(softmax.probability, bits)
    row_sum = (codes.sum(dim=2) * softmax.weight).sum(dim=1, keepdim=True)
    if bits == 16:
        codes = precision.stored(codes)
    products = torch.einsum("rnk,nkd->rnd", codes, values.codes.to(codes.dtype))
    products = products * values.scale.to(codes.dtype)[:, 0]
    total = (products * softmax.weight[:, :, None]).sum(dim=1)
    output = total / row_sum * affine.value_scale + affine.value_mean
    return torch.where(row_sum == 0, 0.0, output)


def attend_query_block(
    query: Tensor,
    sources: list[KeyBlocks],
    affine: ChannelAffine,
    config: AttentionConfig,
    precision: Precision,
) -> Tensor:
    """Output [rows, D] of one query block; query FP32 [rows, D], already preconditioned."""
    quantized = quantize(query, config.qk_bits, (1,))
    scale = config.softmax_scale(query.shape[1])
    logits = torch.cat(
        [attention_scores(quantized, keys, scale, precision.compute) for keys in sources], dim=1
    )
    if logits.shape[1] == 0:
        return torch.zeros(query.shape, dtype=precision.compute)
    values = Quantized(
        torch.cat([keys.value.codes for keys in sources]),
        torch.cat([keys.value.scale for keys in sources]),
    )
    return weighted_values(block_softmax(logits), values, affine, config.pv_bits, precision)


def attend_head(
    query: Tensor,
    keys: HeadKeys,
    mask: Tensor,
    affine: ChannelAffine,
    config: AttentionConfig,
    precision: Precision,
) -> Tensor:
    """Output [length, D] of one head: reordered query [length, D], mask bool [NQ, NK]."""
    query = query.float() * affine.equalizer
    tiles = [
        attend_query_block(rows, keys.attended_by(mask[index]), affine, config, precision)
        for index, rows in enumerate(query.split(config.block_q))
    ]
    return torch.cat(tiles)


def paro_attention_reference(
    inputs: AttentionInputs, config: AttentionConfig, *, exact: bool = False
) -> Tensor:
    """PAROAttention as specified.

    Args:
        inputs: validated inputs on one device (shapes and dtypes in `spec.INPUTS`).
        config: block sizes, bit widths, pooling and scale.
        exact: compute in float64 without 16-bit rounding; quantization is still applied.

    Returns:
        [B, S, H, D] in the original token order: query's dtype, or float64 when `exact`.
        Rows at or past key_length, and rows with nothing to attend, are 0.
    """
    storage = inputs.query.dtype
    precision = Precision(torch.float64, None) if exact else Precision(torch.float32, storage)
    batch, tokens, heads, _ = inputs.query.shape
    kv_heads = inputs.key.shape[2]
    device = inputs.query.device
    words = inputs.block_mask.cpu().numpy()
    bits = unpack_block_mask(words, block_count(tokens, config.block_k))
    mask = torch.from_numpy(bits).to(device)
    output = inputs.query.new_zeros(inputs.query.shape, dtype=torch.float64 if exact else storage)
    for sample, kv_head in itertools.product(range(batch), range(kv_heads)):
        length = int(inputs.key_length[sample])
        if length == 0:
            continue
        mask_bin = min(max(int(inputs.mask_bin[sample]), 0), len(mask) - 1)
        group = range(kv_head * heads // kv_heads, (kv_head + 1) * heads // kv_heads)
        order = inputs.token_order[int(inputs.head_order[group[0]])].long()
        affine = ChannelAffine.of_head(inputs.channel_affine, kv_head, config)
        key, value = inputs.key[sample, order, kv_head], inputs.value[sample, order, kv_head]
        keys = prepare_keys(key, value, length, affine, config, precision)
        for head in group:
            query = inputs.query[sample, order[:length], head]
            result = attend_head(query, keys, mask[mask_bin, head], affine, config, precision)
            output[sample, order[:length], head] = result.to(output.dtype)
    return output
