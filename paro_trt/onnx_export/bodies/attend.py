"""Stage 2 in ONNX: two ways to attend from every query block to its key blocks."""

from __future__ import annotations

import math

from .builder import GraphBuilder, Value
from .quantize import probability_levels
from .stages import Prepared

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
    sizes = prepared.sizes
    tiles_per_sample = sizes.heads * sizes.query_blocks
    tiles = sizes.batch * tiles_per_sample
    blocks = sizes.token_blocks + sizes.summary_blocks
    tile = graph.arange(tiles)
    sample = tile // tiles_per_sample
    kv_head = tile // (sizes.query_blocks * sizes.group)
    first_block = kv_head * blocks
    queries = prepared.query.reshape(tiles, sizes.block_q, sizes.head_dim)
    attended = prepared.attended.reshape(tiles, blocks)
    summary_bias = prepared.summary_bias.reshape(tiles, sizes.summary_blocks, sizes.block_k)
    width = sizes.block_k * sizes.head_dim
    key_blocks = prepared.key.reshape(sizes.batch * sizes.kv_heads * blocks, width)
    value_blocks = prepared.value.reshape(sizes.batch * sizes.kv_heads * blocks, width)
    block_range = graph.arange(blocks)
    rows_shape = graph.vector(-1, sizes.head_dim)
    blocks_shape = graph.vector(sizes.block_q, -1, sizes.block_k)
    logits_shape = graph.vector(sizes.block_q, -1)
    log_levels = graph.op("Log", probability_levels(graph, prepared.pv))

    def attend_tile(index: Value) -> Value:
        listed = graph.op("Compress", block_range, attended.take(index))
        rows = listed + first_block.take(index)
        key = graph.op("Reshape", key_blocks.take(rows), rows_shape)
        value = graph.op("Reshape", value_blocks.take(rows), rows_shape)
        token_bias = prepared.token_bias.take(sample.take(index))
        bias = graph.concat(token_bias, summary_bias.take(index), axis=0).take(listed)
        logits = graph.op("Gemm", queries.take(index), key, bias.reshape(-1), transB=1)

        def by_block() -> Value:
            blocked = graph.op("Reshape", logits, blocks_shape)
            maximum = graph.op("Max", blocked.max(2), LOWEST_FLOAT)
            # exp(x - max + log(levels)) saves one pass over the logits compared with exp(x - max) *
            # levels.
            codes = graph.op("Round", graph.op("Exp", blocked - (maximum - log_levels)))
            weight = graph.op("Exp", maximum - maximum.max(1))
            return graph.op("Reshape", codes * weight, logits_shape)

        def by_row() -> Value:
            maximum = graph.op("Max", logits.max(1), LOWEST_FLOAT)
            return graph.op("Exp", logits - maximum)

        weights = graph.choose(prepared.pv.unquantized, by_row, by_block)
        return normalised(graph, graph.op("MatMul", weights, value), weights.sum(1))

    rows = graph.stack(tiles, attend_tile)
    return rows.reshape(sizes.batch, sizes.heads, sizes.query_rows, sizes.head_dim)


def attend_dense(graph: GraphBuilder, prepared: Prepared) -> Value:
    """The mask expanded to every (row, key), no loop: [B, H, P, D].

    For evaluators and for TensorRT without the plugin; memory grows with S x S. A NaN or an
    infinity in a value reaches every row of its sample and head, on the mask or not.
    """
    sizes = prepared.sizes
    blocks = sizes.token_blocks + sizes.summary_blocks
    keys = blocks * sizes.block_k
    group_rows = sizes.group * sizes.query_rows
    grouped = (sizes.batch, sizes.kv_heads, group_rows)
    queries = prepared.query.reshape(*grouped, sizes.head_dim)
    key = prepared.key.reshape(sizes.batch, sizes.kv_heads, keys, sizes.head_dim)
    value = prepared.value.reshape(sizes.batch, sizes.kv_heads, keys, sizes.head_dim)
    products = graph.op("MatMul", queries, key.transpose(0, 1, 3, 2)).reshape(
        sizes.batch, sizes.heads, sizes.query_blocks, sizes.block_q, blocks, sizes.block_k
    )
    bias = dense_bias(graph, prepared)
    logits = graph.where(bias > LOWEST_FLOAT, products + bias, -math.inf)
    maximum = graph.op("Max", logits.max(5), LOWEST_FLOAT)
    probability = graph.op("Exp", logits - maximum)
    codes = graph.op("Round", probability * probability_levels(graph, prepared.pv))
    kept = graph.where(prepared.pv.unquantized, probability, codes)
    weight = graph.op("Exp", maximum - maximum.max(4))
    weights = (kept * weight).reshape(*grouped, keys)
    output = normalised(graph, graph.op("MatMul", weights, value), weights.sum(3))
    return output.reshape(sizes.batch, sizes.heads, sizes.query_rows, sizes.head_dim)


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
