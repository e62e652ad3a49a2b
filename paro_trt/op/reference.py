"""The specification of PAROAttention in plain PyTorch: one function a stage.

Read quantization.py, then blocks.py (stage 1), then this file (stage 2 and the whole), then
routing.py (blocks that are chosen at run time) and smoothing.py (4-bit query x key).
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

from .blocks import (
    HeadKeys,
    KeyBlocks,
    Precision,
    prepare_keys,
    split_blocks,
    summarize_blocks,
)
from .mask import unpack_block_mask
from .quantization import (
    PROBABILITY_LEVELS,
    ChannelAffine,
    Quantized,
    quantize,
    quantize_probabilities,
)
from .routing import route_head
from .smoothing import (
    QueryRows,
    head_signs,
    mean_in_type,
    rotate,
    scaled_products,
    smooth_query,
    smoothed_products,
)
from .spec import CORRECTION_ROWS, AttentionConfig, AttentionInputs, block_count


def attention_scores(
    query: QueryRows, keys: KeyBlocks, scale: float, compute: torch.dtype
) -> Tensor:
    """Base-2 logits [rows, N, width] of query rows: q . k * scale * log2(e) + log2_count.

    query: of rows; keys: of N blocks.
    """
    query, key, factor = query.to(compute), keys.key.to(compute), scale * math.log2(math.e)
    logits = (
        scaled_products(query, key, factor)
        if keys.smoothed is None
        else smoothed_products(query, key, keys.smoothed.to(compute), factor)
    )
    absent = torch.isneginf(keys.log2_count)
    return torch.where(absent, -math.inf, logits + keys.log2_count.to(compute))


class BlockSoftmax(NamedTuple):
    """Unnormalised softmax of query rows over N key blocks.

    probability: [rows, N, width], relative to the maximum of its (row, key block);
    weight: [rows, N], that maximum relative to the row's.
    """

    probability: Tensor
    weight: Tensor


def block_softmax(logits: Tensor, row_maximum: Tensor) -> BlockSoftmax:
    """Softmax in base 2, each key block against its own maximum.

    P quantized against a running or row maximum would lose the blocks far below it.

    logits: [rows, N, width]; row_maximum: [rows, 1], over all that the row attends.
    """
    block_maximum = logits.amax(dim=2)
    # A block or row of -inf has no weight; subtracting -inf would make it NaN instead.
    block_reference = block_maximum.masked_fill(torch.isneginf(block_maximum), 0.0)
    row_reference = row_maximum.masked_fill(torch.isneginf(row_maximum), 0.0)
    probability = torch.exp2(logits - block_reference[:, :, None])
    return BlockSoftmax(probability, torch.exp2(block_maximum - row_reference))


class WeightedSum(NamedTuple):
    """Sums over the keys of one source: P V [rows, D] and P [rows, 1]."""

    values: Tensor
    weights: Tensor


def sum_of_blocks(
    softmax: BlockSoftmax, values: Quantized, bits: int, precision: Precision
) -> WeightedSum:
    """Both sums over blocks with one value scale each, or one a channel.

    They come from the quantized P, so that rows of P sum to one and the value affine can be
    undone at the end.
    """
    codes = quantize_probabilities(softmax.probability, bits)
    levels = PROBABILITY_LEVELS.get(bits, 1)
    weights = (codes.sum(dim=2) * softmax.weight).sum(dim=1, keepdim=True)
    if bits == 16:
        codes = precision.stored(codes)
    products = torch.einsum("rnk,nkd->rnd", codes, values.codes.to(codes.dtype))
    products = products * values.scale.to(codes.dtype)[:, 0]
    return WeightedSum(
        (products * softmax.weight[:, :, None]).sum(dim=1) / levels, weights / levels
    )


def sum_of_groups(softmax: BlockSoftmax, values: Quantized, bits: int) -> WeightedSum:
    """Both sums over steps of fine summaries, whose groups have quantized values and scales of
    their own.

    A group's scale relative to the step's largest is folded into P before it is quantized. The
    sum of P takes P itself: the codes of a group with small values would lose its mass.
    """
    weights = (softmax.probability.sum(dim=2) * softmax.weight).sum(dim=1, keepdim=True)
    bits = max(bits, 8)
    largest = values.scale.amax(dim=1, keepdim=True)
    share = torch.where(largest == 0, 0.0, values.scale / largest)[:, :, 0]
    codes = quantize_probabilities(softmax.probability * share, bits)
    products = torch.einsum("rnk,nkd->rnd", codes, values.codes.to(codes.dtype))
    products = products * (largest / PROBABILITY_LEVELS[bits]).to(codes.dtype)[:, 0]
    return WeightedSum((products * softmax.weight[:, :, None]).sum(dim=1), weights)


def attend_query_block(
    query: QueryRows,
    sources: list[KeyBlocks],
    affine: ChannelAffine,
    config: AttentionConfig,
    precision: Precision,
) -> Tensor:
    """Output [rows, D] of query rows that attend the same blocks; rows with nothing to attend
    are 0."""
    shape, device = query.rows.codes.shape, query.rows.codes.device
    if not sources:
        return torch.zeros(shape, dtype=precision.compute, device=device)
    scale = config.softmax_scale(shape[1])
    logits = [attention_scores(query, keys, scale, precision.compute) for keys in sources]
    row_maximum = torch.cat([x.amax(dim=(1, 2))[:, None] for x in logits], dim=1)
    row_maximum = row_maximum.amax(dim=1, keepdim=True)
    sums = []
    for keys, source_logits in zip(sources, logits, strict=True):
        softmax = block_softmax(source_logits, row_maximum)
        grouped = config.pv_bits < 16 and keys.value.scale.shape[1] > 1
        sums.append(
            sum_of_groups(softmax, keys.value, config.pv_bits)
            if grouped
            else sum_of_blocks(softmax, keys.value, config.pv_bits, precision)
        )
    row_sum = torch.stack([part.weights for part in sums]).sum(dim=0)
    total = torch.stack([part.values for part in sums]).sum(dim=0)
    output = total / row_sum * affine.value_scale + affine.value_mean
    return torch.where(row_sum == 0, 0.0, output)


def prepare_query_block(
    query: Tensor,
    affine: ChannelAffine,
    signs: Tensor | None,
    config: AttentionConfig,
    precision: Precision,
) -> QueryRows:
    """A query block ready to attend. query: its reordered rows that exist, [rows, D] as they come;
    signs: of the head's rotation, [D], None for none."""
    rows = rotate(query.float() * affine.equalizer, signs)
    if not config.smoothing:
        return QueryRows(quantize(rows, config.qk_bits, (1,)))
    mean = mean_in_type(
        _mean_row(query, config.block_q, affine, signs, config, precision), query.dtype
    )
    return smooth_query(rows, mean[0], config.qk_bits, config.summary_key_bits)


def prepare_mean_query(
    query: Tensor,
    affine: ChannelAffine,
    signs: Tensor | None,
    config: AttentionConfig,
    precision: Precision,
) -> QueryRows:
    """The mean of a run of `CORRECTION_ROWS` rows as a row that attends. query: as above."""
    mean = _mean_row(query, CORRECTION_ROWS, affine, signs, config, precision)
    return QueryRows(quantize(mean, config.summary_key_bits, (1,)))


def _mean_row(
    query: Tensor,
    run: int,
    affine: ChannelAffine,
    signs: Tensor | None,
    config: AttentionConfig,
    precision: Precision,
) -> Tensor:
    """The mean of at most `run` rows, preconditioned and rotated: FP32 [1, D]."""
    counts = torch.tensor([len(query)], device=query.device)
    rows = split_blocks(query.float(), run, len(query))
    mean = summarize_blocks(rows, counts, config.qk_bits, precision)
    return rotate(mean * affine.equalizer, signs)


def attend_head(
    query: Tensor,
    keys: HeadKeys,
    exact: Tensor,
    fine: Tensor | None,
    corrected: bool,
    affine: ChannelAffine,
    signs: Tensor | None,
    config: AttentionConfig,
    precision: Precision,
) -> Tensor:
    """Output [length, D] of one head.

    query: reordered [length, D]; exact, fine: bool [NQ, NK]; corrected: add what the mean query
    of each run of rows lacks (Delta Attention, arXiv 2505.11254, with means of blocks); signs: of
    the head's rotation, [D], None for none.
    """
    prepared = affine, signs, config, precision
    runs = query.split(CORRECTION_ROWS) if corrected else ()
    means = [prepare_mean_query(run, *prepared) for run in runs]
    tiles = []
    for index, rows in enumerate(query.split(config.block_q)):
        sources = keys.attended_by(exact[index], None if fine is None else fine[index])
        block = prepare_query_block(rows, *prepared)
        tile = attend_query_block(block, sources, affine, config, precision)
        if corrected and sources:
            mean = means[index * config.block_q // CORRECTION_ROWS]
            dense = attend_query_block(mean, keys.all_tokens(), affine, config, precision)
            mixed = attend_query_block(mean, sources, affine, config, precision)
            tile = tile + (dense - mixed)
        tiles.append(tile)
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
    key_blocks = block_count(tokens, config.block_k)
    mask = _mask_bits(inputs.block_mask, key_blocks)
    fine_mask = None
    if config.fine_summaries:
        assert inputs.fine_mask is not None  # `validate` refuses a call without it
        fine_mask = _mask_bits(inputs.fine_mask, key_blocks)
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
        signs = head_signs(inputs.rotation, kv_head)
        keys = prepare_keys(key, value, length, affine, signs, config, precision)
        for head in group:
            query = inputs.query[sample, order[:length], head]
            attended = mask[mask_bin, head]
            if config.routing:
                assert inputs.dynamic_blocks is not None
                count = int(inputs.dynamic_blocks[mask_bin, head])
                attended = attended | route_head(
                    query, key[:length], value[:length], attended, count, config, precision.compute
                )
            fine = None if fine_mask is None else fine_mask[mask_bin, head]
            corrected = False
            if config.mean_correction:
                assert inputs.corrected_heads is not None
                corrected = bool(inputs.corrected_heads[head])
            result = attend_head(
                query, keys, attended, fine, corrected, affine, signs, config, precision
            )
            output[sample, order[:length], head] = result.to(output.dtype)
    return output


def _mask_bits(words: Tensor, key_blocks: int) -> Tensor:
    """bool [T, H, NQ, NK] on the words' device."""
    bits = unpack_block_mask(words.cpu().numpy(), key_blocks)
    return torch.from_numpy(bits).to(words.device)
