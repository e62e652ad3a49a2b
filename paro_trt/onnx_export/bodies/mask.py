"""The packed block mask in ONNX: which key blocks and summary tokens a query block attends."""

from __future__ import annotations

import math

from onnx import TensorProto

from ...op.spec import MASK_WORD_BITS
from .builder import GraphBuilder, Value
from .stages import Formals, Sizes


def mask_rows(graph: GraphBuilder, formals: Formals, sizes: Sizes) -> Value:
    """BOOL [B, H, NQ, N]: each sample's mask, one bit a block of tokens."""
    bins = graph.op("Shape", formals.block_mask).take(0)
    chosen = formals.mask_bin.cast(TensorProto.INT64)
    clamped = graph.op("Max", graph.op("Min", chosen, bins - 1), 0)
    words = formals.block_mask.take(clamped).unsqueeze(4)
    width = graph.op("Shape", formals.block_mask).take(3) * MASK_WORD_BITS
    single_bits = graph.constant([1 << bit for bit in range(MASK_WORD_BITS - 1)] + [-(1 << 31)])
    bits = graph.op("BitwiseAnd", words, single_bits.cast(TensorProto.INT32))
    unpacked = bits.cast(TensorProto.BOOL)
    flat = unpacked.reshape(sizes.batch, sizes.heads, sizes.query_blocks, width)
    in_range = graph.arange(sizes.token_blocks) < sizes.key_blocks
    positions = graph.op("Min", graph.arange(sizes.token_blocks), sizes.key_blocks - 1)
    return flat.take(positions, axis=3) & in_range


def attended_blocks(graph: GraphBuilder, listed: Value, anything: Value, sizes: Sizes) -> Value:
    """BOOL [B, H, NQ, M]: listed blocks, or the last, empty one instead; all summary blocks."""
    is_last = graph.arange(sizes.token_blocks).equals(sizes.key_blocks)
    tokens = listed | (~anything & is_last)
    shape = graph.vector(sizes.batch, sizes.heads, sizes.query_blocks, sizes.summary_blocks)
    everywhere = graph.op("Expand", graph.constant(1).cast(TensorProto.BOOL), shape)
    return graph.concat(tokens, everywhere, axis=3)


def attends_anything(listed: Value, count: Value, pooled: Value) -> Value:
    """BOOL [B, H, NQ, 1]: a listed block has tokens or, pooled, any block has.

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
