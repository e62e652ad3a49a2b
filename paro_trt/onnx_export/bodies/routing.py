"""Routing in ONNX: blocks chosen at run time, as paro_trt/op/routing.py does.

Letters: R = block_q / ROUTING_RUN runs of a query block; r = block_k / ROUTING_RUN runs of a key
block; X rows of several query blocks.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from onnx import TensorProto

from ...op.spec import ROUTING_RUN
from .attend import LOWEST_FLOAT
from .builder import GraphBuilder, Value
from .layout import Gathered, KeyLayout, halving_sum
from .mask import bin_of_sample
from .stages import Formals, Sizes, Tiles, softmax_scale


class KeyRuns(NamedTuple):
    """What the estimate knows of keys and values.

    key, value: [B, Hk, N, r, D], means of runs; block_key, block_value: [B, Hk, N, D], of blocks.
    bias: [B, 1, N, r], log of the tokens in a run; block_bias: [B, 1, N], of those in a block,
        -inf without pooling, where a dropped block has no weight.
    """

    key: Value
    value: Value
    block_key: Value
    block_value: Value
    bias: Value
    block_bias: Value

    @classmethod
    def of(cls, layout: KeyLayout, gathered: Gathered) -> KeyRuns:
        graph, runs = layout.graph, layout.sizes.block_k // ROUTING_RUN
        key, value = layout.present(gathered.key), layout.present(gathered.value)
        key_means, count = layout.run_means(key, runs, ROUTING_RUN)
        value_means, _ = layout.run_means(value, runs, ROUTING_RUN)
        block_bias = graph.op("Log", layout.tokens_in_block)
        pooled = layout.sizes.pooled.cast(TensorProto.BOOL)
        return cls(
            key=gathered.stored(key_means),
            value=gathered.stored(value_means),
            block_key=gathered.stored(layout.block_means(key)),
            block_value=gathered.stored(layout.block_means(value)),
            bias=graph.op("Log", count).unsqueeze(1),
            block_bias=graph.where(pooled, block_bias, -math.inf).unsqueeze(1),
        )

    def of_tile(self, tiles: Tiles, index: Value) -> KeyRuns:
        """Those that one tile reads, with B and Hk 1."""
        sample = tiles.sample.take(index)

        def of_head(x: Value, *rest: Value) -> Value:
            heads = x.reshape(tiles.sizes.batch * tiles.sizes.kv_heads, *rest)
            return heads.take(tiles.kv_head.take(index)).unsqueeze(0, 1)

        blocks, head_dim = tiles.sizes.token_blocks, tiles.sizes.head_dim
        runs = tiles.sizes.block_k // ROUTING_RUN
        return KeyRuns(
            key=of_head(self.key, blocks, runs, head_dim),
            value=of_head(self.value, blocks, runs, head_dim),
            block_key=of_head(self.block_key, blocks, head_dim),
            block_value=of_head(self.block_value, blocks, head_dim),
            bias=self.bias.take(sample).unsqueeze(0),
            block_bias=self.block_bias.take(sample).unsqueeze(0),
        )


def estimated_errors(graph: GraphBuilder, rows: Value, keys: KeyRuns, sizes: Sizes) -> Value:
    """What each mean row would lose if a block were not exact: [B, Hk, N, X].

    rows: [B, Hk, X, D], means of runs of query rows.
    """
    blocks, head_dim = sizes.token_blocks, sizes.head_dim
    runs = sizes.block_k // ROUTING_RUN
    *lead, count = (graph.op("Shape", rows).take(axis) for axis in range(3))
    scale = softmax_scale(graph, sizes)
    key = keys.key.reshape(*lead, blocks * runs, head_dim)
    value = keys.value.reshape(*lead, blocks * runs, head_dim)
    bias = keys.bias.reshape(lead[0], 1, 1, blocks * runs)
    logits = graph.op("MatMul", rows, key.transpose(0, 1, 3, 2)) * scale + bias
    maximum = graph.op("Max", logits.max(3), LOWEST_FLOAT)
    weight = graph.op("Exp", logits - maximum)
    total = weight.sum(3)
    weight = weight / total
    output = graph.op("MatMul", weight, value).unsqueeze(2)
    by_block = weight.reshape(*lead, count, blocks, runs).transpose(0, 1, 3, 2, 4)
    part = graph.op("MatMul", by_block, keys.value)
    products = graph.op("MatMul", rows, keys.block_key.transpose(0, 1, 3, 2)) * scale
    summary = graph.op("Exp", products + keys.block_bias.unsqueeze(2) - maximum) / total
    summary = summary.transpose(0, 1, 3, 2).unsqueeze(4)
    left = part - summary * keys.block_value.unsqueeze(3) - (by_block.sum(4) - summary) * output
    return (left * left).sum(4, keep=False)


def routed_blocks(
    graph: GraphBuilder, layout: KeyLayout, gathered: Gathered, formals: Formals, listed: Value
) -> Value:
    """BOOL [B, H, NQ, N]: blocks that routing adds to `listed`, of the same shape."""
    assert formals.dynamic_blocks is not None  # the function has this feature
    sizes = layout.sizes
    errors = block_errors(graph, layout, gathered, formals.key_length)
    errors = graph.where(graph.op("IsNaN", errors), math.inf, errors)
    candidate = (layout.tokens_in_block > 0.0).unsqueeze(1, 2) & ~listed
    ranked = graph.ranked(graph.where(candidate, errors, -math.inf), sizes.token_blocks)
    counts = formals.dynamic_blocks.cast(TensorProto.INT64) * graph.attribute("routing", int)
    of_sample = counts.take(bin_of_sample(graph, counts, formals.mask_bin))
    nothing = ranked * 0
    chosen = (nothing + graph.arange(sizes.token_blocks)) < of_sample.unsqueeze(2, 3)
    marks = graph.op("ScatterElements", nothing, ranked, chosen.cast(TensorProto.INT64), axis=3)
    return marks.cast(TensorProto.BOOL) & candidate


def block_errors(
    graph: GraphBuilder, layout: KeyLayout, gathered: Gathered, key_length: Value
) -> Value:
    """[B, H, NQ, N]: the sums of `estimated_errors` over each query block's existing runs."""
    sizes, keys = layout.sizes, KeyRuns.of(layout, gathered)
    of_block = sizes.block_q // ROUTING_RUN
    runs = sizes.query_blocks * of_block
    length = key_length.cast(TensorProto.INT64).unsqueeze(1)
    exists = graph.arange(sizes.query_rows) < length
    rows = graph.where(exists.unsqueeze(1, 3), gathered.query, 0.0)
    lead = (sizes.batch, sizes.heads, runs)
    rows = halving_sum(
        rows.reshape(*lead, ROUTING_RUN, sizes.head_dim), lead, ROUTING_RUN, sizes.head_dim
    )
    count = exists.floats().reshape(sizes.batch, runs, ROUTING_RUN).sum(2, keep=False)
    rows = gathered.stored(rows / graph.op("Max", count, 1.0).unsqueeze(1, 3))
    present = (count > 0.0).reshape(sizes.batch, sizes.query_blocks, of_block)
    if graph.control_flow:
        tiles = Tiles.of(graph, sizes)
        of_tile = rows.reshape(tiles.total, of_block, sizes.head_dim)
        present = present.reshape(sizes.batch * sizes.query_blocks, of_block)
        row = tiles.sample * sizes.query_blocks + tiles.query_block

        def errors_of(index: Value) -> Value:
            mean_rows = of_tile.take(index).unsqueeze(0, 1)
            errors = estimated_errors(graph, mean_rows, keys.of_tile(tiles, index), sizes)
            kept = graph.where(present.take(row.take(index)), errors, 0.0)
            return kept.sum(3, keep=False).reshape(sizes.token_blocks)

        errors = graph.stack(tiles.total, errors_of)
    else:
        of_heads = rows.reshape(sizes.batch, sizes.kv_heads, sizes.group * runs, sizes.head_dim)
        errors = estimated_errors(graph, of_heads, keys, sizes).reshape(
            sizes.batch, sizes.kv_heads, sizes.token_blocks, sizes.group, sizes.query_blocks,
            of_block,
        )  # fmt: skip
        kept = graph.where(present.unsqueeze(1, 2, 3), errors, 0.0)
        errors = kept.sum(5, keep=False).transpose(0, 1, 3, 4, 2)
    return errors.reshape(sizes.batch, sizes.heads, sizes.query_blocks, sizes.token_blocks)
