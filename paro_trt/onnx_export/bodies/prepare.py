"""Stage 1 in ONNX: reorder by token_order, precondition, quantize.

It mirrors paro_trt/op/reference.py. Quantized tensors are kept as `codes * scale` in FLOAT.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from onnx import TensorProto

from ...op.spec import BLOCK_SIZES, AffineRow
from .builder import GraphBuilder, Value
from .mask import attended_blocks, attends_anything, mask_rows, summary_bias
from .quantize import Reduce, preconditioned, quantized
from .stages import Bits, Formals, Prepared, Sizes


def reordered(graph: GraphBuilder, x: Value, order: Value, heads: Value, sizes: Sizes) -> Value:
    """Gather [B, S, H, D] into FLOAT [B, H, R, D].

    order: INT64 [H, R], the token at each position of each head.
    """
    sample = graph.arange(sizes.batch).unsqueeze(1, 2)
    head = graph.arange(heads).unsqueeze(1)
    rows = (sample * sizes.tokens + order) * heads + head
    flat = x.reshape(sizes.batch * sizes.tokens * heads, sizes.head_dim)
    return flat.take(rows).floats()


def padded_order(graph: GraphBuilder, order: Value, rows: Value, sizes: Sizes) -> Value:
    """Extend [H, S] to [H, rows] by repeating the last token."""
    positions = graph.op("Min", graph.arange(rows), sizes.tokens - 1)
    return order.take(positions, axis=1)


def prepare(graph: GraphBuilder, formals: Formals) -> Prepared:
    """Write stage 1."""
    sizes = Sizes.of(graph, formals)
    qk, pv = Bits.of(graph, "qk_bits"), Bits.of(graph, "pv_bits")
    order = formals.token_order.take(formals.head_order).cast(TensorProto.INT64)
    key_mean, equalizer, value_mean, value_scale = (
        formals.channel_affine.take(row) for row in AffineRow
    )
    exists = existing_tokens(graph, formals.key_length, sizes)
    count = exists.floats().sum(2, keep=False)
    kv_order = order.take(graph.arange(sizes.heads, step=sizes.group))
    layout = KeyLayout(graph, kv_order, exists, count, sizes)
    listed = mask_rows(graph, formals, sizes) & (count > 0.0).unsqueeze(1, 2)
    anything = attends_anything(listed, count, sizes.pooled)
    return Prepared(
        sizes=sizes,
        qk=qk,
        pv=pv,
        order=order,
        query=prepared_query(graph, formals.query, order, equalizer, qk, sizes),
        key=prepared_key(layout, formals.key, qk, key_mean, equalizer),
        value=prepared_value(layout, formals.value, pv, value_mean, value_scale),
        anything=anything,
        attended=attended_blocks(graph, listed, anything, sizes),
        token_bias=graph.where(exists, 0.0, -math.inf),
        summary_bias=summary_bias(graph, listed, count, sizes),
    )


def prepared_query(
    graph: GraphBuilder, query: Value, order: Value, equalizer: Value, qk: Bits, sizes: Sizes
) -> Value:
    """[B, H, P, D], with the softmax scale folded in."""
    rows = padded_order(graph, order, sizes.query_rows, sizes)
    tokens = reordered(graph, query, rows, sizes.heads, sizes)
    given = graph.attribute("scale", float)
    default = graph.constant(1.0) / graph.op("Sqrt", sizes.head_dim.floats())
    scale = graph.where(given.equals(0.0), default, given)

    def dequantized() -> Value:
        of_head = equalizer.take(graph.arange(sizes.heads) // sizes.group)
        by_token = quantized(
            graph, tokens * of_head.unsqueeze(1), qk.levels, lambda x, reduce: reduce(x, 3)
        )
        return by_token._replace(scale=by_token.scale * scale).values()

    return graph.choose(qk.unquantized, lambda: tokens * scale, dequantized)


def existing_tokens(graph: GraphBuilder, key_length: Value, sizes: Sizes) -> Value:
    """BOOL [B, N, block_k]."""
    length = graph.op("Min", key_length.cast(TensorProto.INT64), sizes.tokens)
    positions = graph.arange(sizes.token_blocks * sizes.block_k)
    exists = positions < length.unsqueeze(1)
    return exists.reshape(sizes.batch, sizes.token_blocks, sizes.block_k)


class KeyLayout(NamedTuple):
    """How keys and values are divided into blocks.

    order: INT64 [Hk, S]; exists: BOOL [B, N, block_k]; tokens_in_block: FLOAT [B, N].
    """

    graph: GraphBuilder
    order: Value
    exists: Value
    tokens_in_block: Value
    sizes: Sizes

    def token_blocks(self, x: Value) -> Value:
        """[B, S, Hk, D] -> FLOAT [B, Hk, N, block_k, D]."""
        sizes = self.sizes
        rows = padded_order(self.graph, self.order, sizes.token_blocks * sizes.block_k, sizes)
        return reordered(self.graph, x, rows, sizes.kv_heads, sizes).reshape(
            sizes.batch, sizes.kv_heads, sizes.token_blocks, sizes.block_k, sizes.head_dim
        )

    def halving_sum(self, blocks: Value) -> Value:
        """Sum [B, Hk, N, block_k, D] over tokens in the op's order: add halves until one is left.

        Every ReduceSum here adds two numbers (the first adds a single one if block_k is 64), so
        that every runtime adds in the same order.
        """
        sizes, width = self.sizes, min(BLOCK_SIZES)
        lead = (sizes.batch, sizes.kv_heads, sizes.token_blocks)
        parts = blocks.reshape(*lead, sizes.block_k // width, width, sizes.head_dim)
        total = parts.sum(3, keep=False)
        while width > 1:
            width //= 2
            total = total.reshape(*lead, 2, width, sizes.head_dim).sum(3, keep=False)
        return total.reshape(*lead, sizes.head_dim)

    def with_summaries(self, blocks: Value) -> Value:
        """Set missing tokens to zero, then append the blocks of summaries: [B, Hk, M, ...]."""
        present = self.graph.where(self.exists.unsqueeze(1, 4), blocks, 0.0)
        count = self.graph.op("Max", self.tokens_in_block, 1.0)
        mean = self.halving_sum(present) / count.unsqueeze(1, 3)
        return self.graph.concat(present, padded_summaries(self.graph, mean, self.sizes), axis=2)


def prepared_key(layout: KeyLayout, key: Value, qk: Bits, mean: Value, equalizer: Value) -> Value:
    """[B, Hk, M, block_k, D]."""
    blocks = layout.token_blocks(key)

    def dequantized() -> Value:
        moved = layout.with_summaries(preconditioned(blocks, mean, equalizer))
        return quantized(layout.graph, moved, qk.levels, lambda x, reduce: reduce(x, 3, 4)).values()

    return layout.graph.choose(qk.unquantized, lambda: layout.with_summaries(blocks), dequantized)


def prepared_value(layout: KeyLayout, value: Value, pv: Bits, mean: Value, scale: Value) -> Value:
    """[B, Hk, M, block_k, D]."""
    graph, blocks = layout.graph, layout.token_blocks(value)

    def by_block_or_channel(x: Value, reduce: Reduce) -> Value:
        by_channel = reduce(x, 3)
        return graph.where(pv.four, by_channel, reduce(by_channel, 4))

    def dequantized() -> Value:
        moved = layout.with_summaries(preconditioned(blocks, mean, scale))
        codes = quantized(graph, moved, pv.levels, by_block_or_channel)
        return codes.values() * scale.unsqueeze(1, 2) + mean.unsqueeze(1, 2)

    return graph.choose(pv.unquantized, lambda: layout.with_summaries(blocks), dequantized)


def padded_summaries(graph: GraphBuilder, mean: Value, sizes: Sizes) -> Value:
    """Block means [B, Hk, N, D] as blocks of keys [B, Hk, G, block_k, D], zeros at the end."""
    rows = sizes.summary_blocks * sizes.block_k
    positions = graph.arange(rows)
    exists = (positions < sizes.token_blocks).unsqueeze(1)
    tokens = mean.take(graph.op("Min", positions, sizes.token_blocks - 1), axis=2)
    return graph.where(exists, tokens, 0.0).reshape(
        sizes.batch, sizes.kv_heads, sizes.summary_blocks, sizes.block_k, sizes.head_dim
    )
