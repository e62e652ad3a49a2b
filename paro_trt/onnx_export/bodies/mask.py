"""The packed block mask in ONNX: which key blocks and summary tokens a query block attends."""

from __future__ import annotations

import math

from onnx import TensorProto

from ...op.spec import MASK_WORD_BITS
from .builder import GraphBuilder, Value
from .stages import Sizes

BYTE_BITS = 8
BYTES_OF_WORD = tuple(1 << shift for shift in range(0, MASK_WORD_BITS, BYTE_BITS))


def bin_of_sample(graph: GraphBuilder, by_bin: Value, mask_bin: Value) -> Value:
    """INT64 [B]: mask_bin, clamped to the bins of `by_bin` [T, ...]."""
    bins = graph.op("Shape", by_bin).take(0)
    chosen = mask_bin.cast(TensorProto.INT64)
    return graph.op("Max", graph.op("Min", chosen, bins - 1), 0)


def mask_rows(graph: GraphBuilder, words: Value, mask_bin: Value, sizes: Sizes) -> Value:
    """BOOL [B, H, NQ, N]: each sample's mask, one bit per block of tokens. The last is False.

    words: INT32 [T, H, NQ, W], block_mask or fine_mask.
    """
    chosen = bin_of_sample(graph, words, mask_bin)
    rows = (sizes.batch, sizes.heads, sizes.query_blocks)
    width = graph.op("Shape", words).take(3) * MASK_WORD_BITS
    bits = unpacked_bits(graph, words.take(chosen)).reshape(*rows, width)
    real = graph.op("Slice", bits, [0], graph.vector(sizes.key_blocks), [3])
    empty = graph.op("Expand", graph.constant(0).cast(TensorProto.BOOL), graph.vector(*rows, 1))
    return graph.concat(real, empty, axis=3)


def unpacked_bits(graph: GraphBuilder, words: Value) -> Value:
    """BOOL [..., 4, 8] of INT32 words [...]: their bits, the lowest first.

    This uses a table of bytes, because TensorRT's parser has neither BitwiseAnd nor BitShift
    [tensorrt_rtx 1.7, 2026-11-24]. BitwiseAnd with 32 constants would need four times the memory.
    For 5.6 million bits, ONNX Runtime on one thread of an EPYC took 8.6 ms with it and 11.5 ms with
    the table that day; both are little next to the attention that uses the bits.
    """
    wide = words.cast(TensorProto.INT64)
    # Runtimes disagree about Div and Mod of negative numbers.
    unsigned = graph.where(wide < 0, wide + (1 << MASK_WORD_BITS), wide)
    byte = (unsigned.unsqueeze(-1) // BYTES_OF_WORD) % (1 << BYTE_BITS)
    table = [value >> bit & 1 for value in range(1 << BYTE_BITS) for bit in range(BYTE_BITS)]
    bits = graph.constant(table).cast(TensorProto.BOOL).reshape(1 << BYTE_BITS, BYTE_BITS)
    return bits.take(byte)


def is_last(graph: GraphBuilder, sizes: Sizes) -> Value:
    """BOOL [N]: True for the block that never holds tokens."""
    return graph.arange(sizes.token_blocks).equals(sizes.key_blocks)


def attended_blocks(graph: GraphBuilder, listed: Value, anything: Value, sizes: Sizes) -> Value:
    """BOOL [B, H, NQ, M]: listed blocks, or the last, empty one if none is; all summary blocks."""
    last = is_last(graph, sizes)
    tokens = listed | (~anything & last)
    shape = graph.vector(sizes.batch, sizes.heads, sizes.query_blocks, sizes.summary_blocks)
    everywhere = graph.op("Expand", graph.constant(1).cast(TensorProto.BOOL), shape)
    return graph.concat(tokens, everywhere, axis=3)


def attends_anything(listed: Value, count: Value, pooled: Value) -> Value:
    """BOOL [B, H, NQ, 1]: a listed block has tokens or, with pooling, any block has.

    listed: BOOL [B, H, NQ, N]; count: FLOAT [B, N]; pooled: INT64 scalar, 0 or 1.
    """
    summarised = (count > 0.0) & pooled.cast(TensorProto.BOOL)
    either = listed | summarised.unsqueeze(1, 2)
    return either.cast(TensorProto.INT32).max(3).cast(TensorProto.BOOL)


def summary_bias(graph: GraphBuilder, listed: Value, count: Value, sizes: Sizes) -> Value:
    """[B, H, NQ, G, block_k], see `Prepared`."""
    positions = graph.arange(sizes.summary_blocks * sizes.block_k)
    exists = positions < sizes.token_blocks
    block = graph.op("Min", positions, sizes.token_blocks - 1)
    bias = graph.where(listed, -math.inf, graph.op("Log", count).unsqueeze(1, 2))
    padded = graph.where(exists, bias.take(block, axis=3), -math.inf)
    return padded.reshape(
        sizes.batch, sizes.heads, sizes.query_blocks, sizes.summary_blocks, sizes.block_k
    )
