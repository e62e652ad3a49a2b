"""The specification of PAROAttention in plain PyTorch: one function a stage, read top to bottom.

Kernels, CPU backend, ONNX function body and plugin are tested against this file. It computes in
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

from .mask import unpack_block_mask
from .quantization import (
    ChannelAffine,
    Quantized,
    precondition,
    quantize,
    quantize_probabilities,
)
from .spec import AttentionConfig, AttentionInputs, block_count


class Precision(NamedTuple):
    """What the arithmetic between quantizations is done in.

    compute: dtype of sums and softmax; storage: the 16-bit type that unquantized P and summary
    tokens are rounded to before their product, None to leave them unrounded.
    """

    compute: torch.dtype
    storage: torch.dtype | None

    def stored(self, x: Tensor) -> Tensor:
        """x rounded to the storage type, in x's own dtype."""
        return x if self.storage is None else x.to(self.storage).to(x.dtype)


class KeyBlocks(NamedTuple):
    """Key blocks of one (sample, key/value head) ready to be attended.

    key: codes [N, block_k, D]; value: codes [N, block_k, D]; log2_count: [N, block_k], what a
    key adds to its base-2 logit (0 for a token, log2 of its tokens for a summary, -inf where
    there is no key).
    """

    key: Quantized
    value: Quantized
    log2_count: Tensor

    def select(self, blocks: Tensor) -> KeyBlocks:
        """The listed blocks only. blocks: bool [N]."""
        return KeyBlocks(
            Quantized(self.key.codes[blocks], self.key.scale[blocks]),
            Quantized(self.value.codes[blocks], self.value.scale[blocks]),
            self.log2_count[blocks],
        )


def split_blocks(x: Tensor, block: int, length: int) -> Tensor:
    """Cut reordered tokens [S, D] into [N, block, D]; tokens at or past `length` become 0."""
    tokens, channels = x.shape
    blocks = x.new_zeros(block_count(tokens, block) * block, channels)
    blocks[:length] = x[:length]
    return blocks.view(-1, block, channels)


def summarize_blocks(blocks: Tensor, counts: Tensor, bits: int, precision: Precision) -> Tensor:
    """Mean of each block's existing tokens, FP32 [N, D] (0 for a block with none).

    The sum is FP32 in one fixed order, halves added until one token is left, so that quantized
    summaries are equal bit for bit in every implementation. At 16 bits the mean is stored in the
    inputs' type, as the tokens are.

    blocks: FP32 [N, block, D], block a power of two, 0 where no token exists; counts: tokens
    that exist, [N].
    """
    while blocks.shape[1] > 1:
        lower, upper = blocks.chunk(2, dim=1)
        blocks = lower + upper
    mean = blocks[:, 0] / counts.clamp(min=1).float()[:, None]
    return precision.stored(mean) if bits == 16 else mean


def quantize_key_blocks(
    key: Tensor, value: Tensor, log2_count: Tensor, config: AttentionConfig
) -> KeyBlocks:
    """Quantize blocks of keys and values: FP32 [N, block_k, D] each.

    Keys: one scale a block. Values: one a block at 8 bits, one a (block, channel) at 4 bits.
    """
    value_group = (1,) if config.pv_bits == 4 else (1, 2)
    return KeyBlocks(
        quantize(key, config.qk_bits, (1, 2)),
        quantize(value, config.pv_bits, value_group),
        log2_count,
    )


def token_blocks(key: Tensor, value: Tensor, counts: Tensor, config: AttentionConfig) -> KeyBlocks:
    """Key blocks made of the tokens themselves; key, value FP32 [NK, block_k, D]."""
    exists = torch.arange(config.block_k) < counts[:, None]
    log2_count = torch.zeros(exists.shape).masked_fill(~exists, -math.inf)
    return quantize_key_blocks(key, value, log2_count, config)


def summary_blocks(
    key: Tensor, value: Tensor, counts: Tensor, config: AttentionConfig, precision: Precision
) -> KeyBlocks:
    """Key blocks made of summary tokens: block_k consecutive ones form a block.

    key, value: FP32 [NK, block_k, D]. Summary token j is the mean key and mean value of block
    j's existing tokens and weighs as many tokens as it stands for.
    """
    key_mean = summarize_blocks(key, counts, config.qk_bits, precision)
    value_mean = summarize_blocks(value, counts, config.pv_bits, precision)
    groups = block_count(len(counts), config.block_k)
    log2_count = torch.full((groups * config.block_k,), -math.inf)
    log2_count[: len(counts)] = torch.log2(counts.float())
    return quantize_key_blocks(
        split_blocks(key_mean, config.block_k, len(counts)),
        split_blocks(value_mean, config.block_k, len(counts)),
        log2_count.view(groups, config.block_k),
        config,
    )


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


class HeadKeys(NamedTuple):
    """All a query head attends: its NK key blocks, their summary tokens (None where dropped
    blocks vanish), and bool [NK], the key blocks in which a token exists."""

    tokens: KeyBlocks
    summaries: KeyBlocks | None
    exists: Tensor

    def attended_by(self, mask_row: Tensor) -> list[KeyBlocks]:
        """What a query block with this mask row (bool [NK]) attends: listed blocks, then the
        summary tokens of the others, a summary block without any left out."""
        listed = mask_row & self.exists
        sources = [self.tokens.select(listed)]
        if self.summaries is not None:
            log2_count = self.summaries.log2_count.clone()
            log2_count.view(-1)[: len(listed)][listed] = -math.inf
            remaining = self.summaries._replace(log2_count=log2_count)
            sources.append(remaining.select(~torch.isneginf(log2_count).all(dim=1)))
        return sources


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


def prepare_keys(
    key: Tensor,
    value: Tensor,
    length: int,
    affine: ChannelAffine,
    config: AttentionConfig,
    precision: Precision,
) -> HeadKeys:
    """Reordered keys and values [S, D] of one head -> its quantized blocks and summaries."""
    key_blocks = split_blocks(key.float(), config.block_k, length)
    value_blocks = split_blocks(value.float(), config.block_k, length)
    starts = torch.arange(len(key_blocks)) * config.block_k
    counts = (length - starts).clamp(0, config.block_k)
    absent = (torch.arange(config.block_k) >= counts[:, None])[:, :, None]
    # The affine moves the zeros of absent tokens; they must not enter a scale or a mean.
    key_blocks = precondition(key_blocks, affine.key_mean, 1.0 / affine.equalizer)
    key_blocks = key_blocks.masked_fill(absent, 0.0)
    value_blocks = precondition(value_blocks, affine.value_mean, 1.0 / affine.value_scale)
    value_blocks = value_blocks.masked_fill(absent, 0.0)
    summaries = None
    if config.pool_dropped:
        summaries = summary_blocks(key_blocks, value_blocks, counts, config, precision)
    return HeadKeys(token_blocks(key_blocks, value_blocks, counts, config), summaries, counts > 0)


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
        inputs: validated inputs on the CPU (shapes and dtypes in `spec.INPUTS`).
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
    words = inputs.block_mask.numpy()
    mask = torch.from_numpy(unpack_block_mask(words, block_count(tokens, config.block_k)))
    output = torch.zeros(inputs.query.shape, dtype=torch.float64 if exact else storage)
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
