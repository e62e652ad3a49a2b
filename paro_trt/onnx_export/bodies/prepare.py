"""Stage 1 in ONNX: reorder by token_order, precondition, quantize.

It mirrors paro_trt/op/reference.py. Quantized tensors are kept as `codes * scale` in FLOAT.
"""

from __future__ import annotations

import math

from onnx import TensorProto

from ...op.spec import AffineRow
from .builder import GraphBuilder, Value
from .correct import correction_of, mean_queries
from .fine import Affine, fine_blocks, fine_keys
from .layout import Gathered, KeyLayout
from .mask import attended_blocks, attends_anything, mask_rows, summary_bias
from .quantize import Reduce, preconditioned, quantized
from .routing import routed_blocks
from .smooth import Smoothing, rotated_key, smoothed_key, smoothed_query
from .stages import Bits, Features, Formals, Prepared, Sizes, softmax_scale


def prepare(graph: GraphBuilder, formals: Formals, features: Features) -> Prepared:
    """Write stage 1."""
    sizes = Sizes.of(graph, formals)
    qk, pv = Bits.of(graph, "qk_bits"), Bits.of(graph, "pv_bits")
    order = formals.token_order.take(formals.head_order).cast(TensorProto.INT64)
    affine = Affine(*(formals.channel_affine.take(row) for row in AffineRow))
    exists = existing_tokens(graph, formals.key_length, sizes)
    count = exists.floats().sum(2, keep=False)
    kv_order = order.take(graph.arange(sizes.heads, step=sizes.group))
    layout = KeyLayout(graph, kv_order, exists, count, sizes)
    gathered = Gathered(layout, formals, order)
    marked = mask_rows(graph, formals.block_mask, formals.mask_bin, sizes)
    listed = marked & (count > 0.0).unsqueeze(1, 2)
    if features.routing:
        listed = listed | routed_blocks(graph, layout, gathered, formals, listed)
    anything = attends_anything(listed, count, sizes.pooled)
    covered = listed
    means = fine = correction = None
    if features.mean_correction:
        means = mean_queries(graph, gathered, formals.key_length, sizes)
    smoothing = Smoothing.of(graph, formals) if features.smoothing else None
    query = prepared_query(gathered, means, affine.equalizer, qk, formals, smoothing, sizes)
    if means is not None:
        query, means = query.split(sizes.query_rows, axis=2)
        correction = correction_of(graph, means, formals, sizes)
    smoothed = None
    if smoothing is not None:
        smoothed = smoothing, key_in_rotated_channels(layout, gathered.key, affine, smoothing)
    key = prepared_key(layout, gathered.key, qk, affine, smoothed)
    value = prepared_value(layout, gathered.value, pv, affine)
    if features.fine_summaries:
        of_fine = fine_blocks(layout, formals, listed)
        covered = listed | of_fine
        fine = fine_keys(layout, gathered, of_fine, affine, qk, pv, smoothed)
    return Prepared(
        sizes=sizes,
        qk=qk,
        pv=pv,
        channels=sizes.head_dim if smoothing is None else smoothing.channels,
        order=order,
        query=query,
        key=key,
        value=value,
        anything=anything,
        attended=attended_blocks(graph, listed, anything, sizes),
        token_bias=graph.where(exists, 0.0, -math.inf),
        summary_bias=summary_bias(graph, covered, count, sizes),
        fine=fine,
        correction=correction,
    )


def prepared_query(
    gathered: Gathered,
    means: Value | None,
    equalizer: Value,
    qk: Bits,
    formals: Formals,
    smoothing: Smoothing | None,
    sizes: Sizes,
) -> Value:
    """[B, H, P, D], with the softmax scale folded in; with `means` [B, H, C, D], which are
    quantized as rows are, [B, H, P + C, D]. With smoothing there are 3 D channels."""
    tokens = gathered.query
    graph = tokens.graph
    scale = softmax_scale(graph, sizes)

    def unquantized() -> Value:
        rows = tokens
        if means is not None:
            rows = graph.concat(tokens, gathered.stored(means), axis=2)
        return rows * scale

    def dequantized() -> Value:
        of_head = equalizer.take(graph.arange(sizes.heads) // sizes.group)
        rows = tokens if means is None else graph.concat(tokens, means, axis=2)
        by_token = quantized(
            graph, rows * of_head.unsqueeze(1), qk.levels, lambda x, reduce: reduce(x, 3)
        )
        return by_token._replace(scale=by_token.scale * scale).values()

    def plain() -> Value:
        return graph.choose(qk.unquantized, unquantized, dequantized)

    if smoothing is None:
        return plain()
    of_head = equalizer.take(graph.arange(sizes.heads) // sizes.group)
    return smoothing.or_plain(
        lambda: smoothed_query(smoothing, tokens, means, of_head, formals, scale, sizes), plain
    )


def existing_tokens(graph: GraphBuilder, key_length: Value, sizes: Sizes) -> Value:
    """BOOL [B, N, block_k]."""
    length = graph.op("Min", key_length.cast(TensorProto.INT64), sizes.tokens)
    positions = graph.arange(sizes.token_blocks * sizes.block_k)
    exists = positions < length.unsqueeze(1)
    return exists.reshape(sizes.batch, sizes.token_blocks, sizes.block_k)


def key_in_rotated_channels(
    layout: KeyLayout, blocks: Value, affine: Affine, smoothing: Smoothing
) -> Value:
    """Of [B, Hk, N, block_k, D], what `rotated_key` makes of them; where smoothing is not used
    nothing reads it."""
    return layout.graph.choose(
        smoothing.used,
        lambda: rotated_key(
            layout, smoothing, preconditioned(blocks, affine.key_mean, affine.equalizer)
        ),
        lambda: blocks,
    )


def prepared_key(
    layout: KeyLayout,
    blocks: Value,
    qk: Bits,
    affine: Affine,
    smoothed: tuple[Smoothing, Value] | None,
) -> Value:
    """[B, Hk, M, block_k, D] of [B, Hk, N, block_k, D]; smoothed, with 3 D channels, of the
    rotated keys that come with `smoothed`."""

    def dequantized() -> Value:
        moved = layout.with_summaries(preconditioned(blocks, affine.key_mean, affine.equalizer))
        return quantized(layout.graph, moved, qk.levels, lambda x, reduce: reduce(x, 3, 4)).values()

    def plain() -> Value:
        return layout.graph.choose(
            qk.unquantized, lambda: layout.with_summaries(blocks), dequantized
        )

    if smoothed is None:
        return plain()
    smoothing, rotated = smoothed
    return smoothing.or_plain(lambda: smoothed_key(layout, smoothing, rotated), plain)


def prepared_value(layout: KeyLayout, blocks: Value, pv: Bits, affine: Affine) -> Value:
    """[B, Hk, M, block_k, D] of [B, Hk, N, block_k, D]."""
    graph, mean, scale = layout.graph, affine.value_mean, affine.value_scale

    def by_block_or_channel(x: Value, reduce: Reduce) -> Value:
        by_channel = reduce(x, 3)
        return graph.where(pv.four, by_channel, reduce(by_channel, 4))

    def dequantized() -> Value:
        moved = layout.with_summaries(preconditioned(blocks, mean, scale))
        codes = quantized(graph, moved, pv.levels, by_block_or_channel)
        return codes.values() * scale.unsqueeze(1, 2) + mean.unsqueeze(1, 2)

    return graph.choose(pv.unquantized, lambda: layout.with_summaries(blocks), dequantized)
