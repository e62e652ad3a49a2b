"""Stage 2 in ONNX: two ways to attend from every query block to its key blocks."""

from __future__ import annotations

import math
from typing import NamedTuple

from ...op.quantization import PROBABILITY_LEVELS
from ...op.spec import FINE_SUMMARIES
from .builder import GraphBuilder, Value
from .quantize import probability_levels
from .stages import Prepared, Sizes

LOWEST_FLOAT = -3.4028234663852886e38


def attend_sparse(graph: GraphBuilder, prepared: Prepared) -> Value:
    """Loop over (sample, head, query block), reading the listed key blocks only: [B, H, P, D].

    Memory never grows with S x S: an iteration holds block_q rows of logits.

    Time of ONNX Runtime's own MultiHeadAttention over this body's, one thread of a shared EPYC
    Zen 3, medians of interleaved runs, 2026-11-23, D = 64, blocks 128 x 64, density .25:
    S = 2,048, H = 3: 2.3 at 16/16 bits, 1.5 at 8/8; S = 8,192, H = 4: 2.8 and 1.9, pooled 1.7.
    Over ONNX's Attention operator there: 4.0 and 2.8.
    Keys as rows of the logits (contiguous block maxima) was measured and is no faster.
    """
    sizes, fine, correction = prepared.sizes, prepared.fine, prepared.correction
    tiles_per_sample = sizes.heads * sizes.query_blocks
    tiles = sizes.batch * tiles_per_sample
    blocks = sizes.token_blocks + sizes.summary_blocks
    tile = graph.arange(tiles)
    sample = tile // tiles_per_sample
    kv_head = tile // (sizes.query_blocks * sizes.group)
    first_block = kv_head * blocks
    channels, wide = prepared.channels, prepared.channels is not sizes.head_dim
    queries = prepared.query.reshape(tiles, sizes.block_q, channels)
    attended = prepared.attended.reshape(tiles, blocks)
    summary_bias = prepared.summary_bias.reshape(tiles, sizes.summary_blocks, sizes.block_k)
    width = sizes.block_k * sizes.head_dim
    key_width = sizes.block_k * channels if wide else width
    key_blocks = prepared.key.reshape(sizes.batch * sizes.kv_heads * blocks, key_width)
    value_blocks = prepared.value.reshape(sizes.batch * sizes.kv_heads * blocks, width)
    block_range = graph.arange(blocks)
    rows_shape = graph.vector(-1, sizes.head_dim)
    keys_shape = graph.vector(-1, channels) if wide else rows_shape
    tile_rows = sizes.block_q
    if correction is not None:
        means = correction.query.reshape(tiles, 1, channels)
        queries, tile_rows = graph.concat(queries, means, axis=1), sizes.block_q + 1
        mean_rows = RowShapes.of(graph, 1, sizes)
        head = tile // sizes.query_blocks % sizes.heads
        token_range = graph.arange(sizes.token_blocks)
    shapes = RowShapes.of(graph, tile_rows, sizes, fine=fine is not None)
    if fine is not None:
        groups = sizes.batch * sizes.kv_heads * sizes.token_blocks
        group_width = sizes.head_dim * FINE_SUMMARIES
        key_group_width = channels * FINE_SUMMARIES if wide else group_width
        fine_keys = fine.key.reshape(groups, key_group_width)
        fine_values = fine.value.reshape(groups, group_width)
        fine_attended = fine.attended.reshape(tiles, sizes.token_blocks)
        group_range = graph.arange(sizes.token_blocks)
        first_group = kv_head * sizes.token_blocks
        mean_of_tile = kv_head % sizes.kv_heads
    levels = probability_levels(graph, prepared.pv)
    log_levels = graph.op("Log", levels)

    def attend_listed(index: Value) -> Value:
        """What the mask row of a tile lists, [tile_rows, D]."""
        listed = graph.op("Compress", block_range, attended.take(index))
        rows = listed + first_block.take(index)
        key = graph.op("Reshape", key_blocks.take(rows), keys_shape)
        value = graph.op("Reshape", value_blocks.take(rows), rows_shape)
        token_bias = prepared.token_bias.take(sample.take(index))
        bias = graph.concat(token_bias, summary_bias.take(index), axis=0).take(listed)
        own = queries.take(index)
        logits = graph.op("Gemm", own, key, bias.reshape(-1), transB=1)
        if fine is None:
            weights = weights_of(logits, shapes)
            return normalised(graph, graph.op("MatMul", weights, value), weights.sum(1))
        listed = graph.op("Compress", group_range, fine_attended.take(index))
        rows = listed + first_group.take(index)
        key = graph.op("Reshape", fine_keys.take(rows), keys_shape)
        bias = fine.bias.take(sample.take(index)).take(listed)
        fine_logits = graph.op("Gemm", own, key, bias.reshape(-1), transB=1)
        fine_value = graph.op("Reshape", fine_values.take(rows), rows_shape)
        mean = fine.value_mean.take(mean_of_tile.take(index)).unsqueeze(0)
        values = graph.concat(value, fine_value, mean, axis=0)
        weights = weights_of(logits, shapes, fine_logits)
        return normalised(graph, graph.op("MatMul", weights, values), weights.sum(1))

    def attend_everything(index: Value) -> Value:
        """What a tile's mean query attends densely, [1, D]."""
        rows = token_range + first_block.take(index)
        key = graph.op("Reshape", key_blocks.take(rows), keys_shape)
        value = graph.op("Reshape", value_blocks.take(rows), rows_shape)
        bias = prepared.token_bias.take(sample.take(index))
        logits = graph.op("Gemm", means.take(index), key, bias.reshape(-1), transB=1)
        weights = weights_of(logits, mean_rows)
        return normalised(graph, graph.op("MatMul", weights, value), weights.sum(1))

    def weights_of(logits: Value, shapes: RowShapes, fine_logits: Value | None = None) -> Value:
        """P relative to the row's maximum, [rows, keys]. With fine summaries, theirs follow, and
        then what their codes lose, the weight of the value mean."""

        def by_block() -> Value:
            blocked = graph.op("Reshape", logits, shapes.blocks)
            maximum = graph.op("Max", blocked.max(2), LOWEST_FLOAT)
            # exp(x - max + log(levels)) saves one pass over the logits compared with exp(x - max) *
            # levels.
            codes = graph.op("Round", graph.op("Exp", blocked - (maximum - log_levels)))
            if fine_logits is None or shapes.groups is None:
                weight = graph.op("Exp", maximum - maximum.max(1))
                return graph.op("Reshape", codes * weight, shapes.keys)
            grouped = graph.op("Reshape", fine_logits, shapes.groups)
            of_group = graph.op("Max", grouped.max(2), LOWEST_FLOAT)
            row_maximum = graph.op("Max", maximum.max(1), of_group.max(1))
            weight = graph.op("Exp", maximum - row_maximum)
            tokens = graph.op("Reshape", codes * weight, shapes.keys)
            probability = graph.op("Exp", grouped - of_group)
            group_weight = graph.op("Exp", of_group - row_maximum) * levels
            kept = fine_codes(graph, probability)
            lost = ((probability - kept) * group_weight).sum(1, 2)
            summaries = graph.op("Reshape", kept * group_weight, shapes.keys)
            return graph.concat(tokens, summaries, graph.op("Reshape", lost, shapes.keys), axis=1)

        def by_row() -> Value:
            every = logits
            if fine_logits is not None:
                every = graph.concat(logits, fine_logits, axis=1)
            maximum = graph.op("Max", every.max(1), LOWEST_FLOAT)
            weights = graph.op("Exp", every - maximum)
            if fine_logits is None:
                return weights
            return graph.concat(weights, maximum * 0.0, axis=1)

        return graph.choose(prepared.pv.unquantized, by_row, by_block)

    def attend_tile(index: Value) -> Value:
        result = attend_listed(index)
        if correction is None:
            return result
        rows, mixed = result.split(sizes.block_q, axis=0)
        nothing = graph.op("Expand", 0.0, graph.vector(1, sizes.head_dim))
        return rows + graph.choose(
            correction.heads.take(head.take(index)),
            lambda: attend_everything(index) - mixed,
            lambda: nothing,
        )

    rows = graph.stack(tiles, attend_tile)
    return rows.reshape(sizes.batch, sizes.heads, sizes.query_rows, sizes.head_dim)


class RowShapes(NamedTuple):
    """Shapes of the logits of a number of rows: as blocks of keys, as groups of fine summaries,
    and as keys."""

    blocks: Value
    keys: Value
    groups: Value | None

    @classmethod
    def of(
        cls, graph: GraphBuilder, rows: Value | int, sizes: Sizes, *, fine: bool = False
    ) -> RowShapes:
        blocks = graph.vector(rows, -1, sizes.block_k)
        keys = graph.vector(rows, -1)
        return cls(blocks, keys, graph.vector(rows, -1, FINE_SUMMARIES) if fine else None)


def attend_dense(graph: GraphBuilder, prepared: Prepared) -> Value:
    """The mask expanded to every (row, key), no loop: [B, H, P, D].

    For evaluators and for TensorRT without the plugin; memory grows with S x S. A NaN or an
    infinity in a value reaches every row of its sample and head, on the mask or not.
    """
    sizes, correction = prepared.sizes, prepared.correction
    if correction is None:
        rows = dense_rows(graph, prepared, prepared.query, sizes.block_q, sizes.query_rows)
        return rows.reshape(sizes.batch, sizes.heads, sizes.query_rows, sizes.head_dim)
    tiles = (sizes.batch, sizes.heads, sizes.query_blocks)
    query = prepared.query.reshape(*tiles, sizes.block_q, prepared.channels)
    query = graph.concat(query, correction.query, axis=3)
    tile_rows = sizes.block_q + 1
    attended = dense_rows(graph, prepared, query, tile_rows, sizes.query_blocks * tile_rows)
    rows, mixed = attended.reshape(*tiles, tile_rows, sizes.head_dim).split(sizes.block_q, axis=3)
    dense = dense_rows(
        graph, prepared, correction.query, 1, sizes.query_blocks, everything=True
    ).reshape(*tiles, 1, sizes.head_dim)
    corrected = rows + graph.where(correction.heads.unsqueeze(1, 2, 3), dense - mixed, 0.0)
    return corrected.reshape(sizes.batch, sizes.heads, sizes.query_rows, sizes.head_dim)


def dense_rows(
    graph: GraphBuilder,
    prepared: Prepared,
    query: Value,
    tile_rows: Value | int,
    row_count: Value,
    *,
    everything: bool = False,
) -> Value:
    """What `row_count` rows of each head attend, [B, Hk, group * row_count, D].

    query: of as many rows, in tiles of `tile_rows` rows that attend the same. everything: every
    token, whatever the mask.
    """
    sizes, fine = prepared.sizes, prepared.fine
    blocks, key, value = sizes.token_blocks, prepared.key, prepared.value
    if everything:
        fine, tokens = None, graph.arange(blocks)
        key, value = key.take(tokens, axis=2), value.take(tokens, axis=2)
    else:
        blocks = blocks + sizes.summary_blocks
    keys = blocks * sizes.block_k
    group_rows = sizes.group * row_count
    grouped = (sizes.batch, sizes.kv_heads, group_rows)
    tiled = (sizes.batch, sizes.heads, sizes.query_blocks, tile_rows)
    queries = query.reshape(*grouped, prepared.channels)
    key = key.reshape(sizes.batch, sizes.kv_heads, keys, prepared.channels)
    value = value.reshape(sizes.batch, sizes.kv_heads, keys, sizes.head_dim)
    products = graph.op("MatMul", queries, key.transpose(0, 1, 3, 2)).reshape(
        *tiled, blocks, sizes.block_k
    )
    bias = prepared.token_bias.unsqueeze(1, 2, 3) if everything else dense_bias(graph, prepared)
    logits = graph.where(bias > LOWEST_FLOAT, products + bias, -math.inf)
    maximum = graph.op("Max", logits.max(5), LOWEST_FLOAT)
    probability = graph.op("Exp", logits - maximum)
    levels = probability_levels(graph, prepared.pv)
    codes = graph.op("Round", probability * levels)
    kept = graph.where(prepared.pv.unquantized, probability, codes)
    if fine is None:
        weight = graph.op("Exp", maximum - maximum.max(4))
        weights = (kept * weight).reshape(*grouped, keys)
        return normalised(graph, graph.op("MatMul", weights, value), weights.sum(3))
    groups = sizes.token_blocks * FINE_SUMMARIES
    fine_key = fine.key.reshape(sizes.batch, sizes.kv_heads, groups, prepared.channels)
    fine_value = fine.value.reshape(sizes.batch, sizes.kv_heads, groups, sizes.head_dim)
    products = graph.op("MatMul", queries, fine_key.transpose(0, 1, 3, 2)).reshape(
        *tiled, sizes.token_blocks, FINE_SUMMARIES
    )
    bias = graph.where(fine.attended.unsqueeze(3, 5), fine.bias.unsqueeze(1, 2, 3), -math.inf)
    logits = graph.where(bias > LOWEST_FLOAT, products + bias, -math.inf)
    of_group = graph.op("Max", logits.max(5), LOWEST_FLOAT)
    row_maximum = graph.op("Max", maximum.max(4), of_group.max(4))
    weights = (kept * graph.op("Exp", maximum - row_maximum)).reshape(*grouped, keys)
    probability = graph.op("Exp", logits - of_group)
    unit = graph.where(prepared.pv.unquantized, 1.0, levels)
    group_weight = graph.op("Exp", of_group - row_maximum) * unit
    kept = graph.where(prepared.pv.unquantized, probability, fine_codes(graph, probability))
    lost = ((probability - kept) * group_weight).sum(4, 5)
    weights = graph.concat(
        weights,
        (kept * group_weight).reshape(*grouped, groups),
        lost.reshape(*grouped, 1),
        axis=3,
    )
    mean = graph.op("Expand", fine.value_mean.unsqueeze(1), graph.vector(sizes.batch, 1, 1, 1))
    value = graph.concat(value, fine_value, mean, axis=2)
    return normalised(graph, graph.op("MatMul", weights, value), weights.sum(3))


def fine_codes(graph: GraphBuilder, probability: Value) -> Value:
    """P of fine summaries quantized, in [0, 1]. It has 8 bits where the call's has 4."""
    levels = float(PROBABILITY_LEVELS[8])
    return graph.op("Round", probability * levels) / levels


def dense_bias(graph: GraphBuilder, prepared: Prepared) -> Value:
    """[B, H, NQ, 1, M, block_k]: what is added to a logit; -inf where there is no token."""
    sizes = prepared.sizes
    attended = prepared.attended.take(graph.arange(sizes.token_blocks), axis=3)
    tokens = graph.where(
        attended.unsqueeze(3, 5), prepared.token_bias.unsqueeze(1, 2, 3), -math.inf
    )
    return graph.concat(tokens, prepared.summary_bias.unsqueeze(3), axis=4)


def normalised(graph: GraphBuilder, total: Value, row_sum: Value) -> Value:
    """total / row_sum, or 0 for rows with nothing to attend."""
    return graph.where(row_sum.equals(0.0), 0.0, total / row_sum)
