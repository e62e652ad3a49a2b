"""Smoothed 4-bit query x key in ONNX, as paro_trt/op/smoothing.py does.

The three products of a logit are one product of three times as many channels:

    row of a query    s4(d_i)     q_I         s8(q'_i)
    key of a token    s4(c_j)     s8(c_j)     s8(k_J)
    summary           0           0           its key
    mean query        0           s8(q)       s8(q)

so that everything behind stage 1 is the same with smoothing and without.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from onnx import TensorProto

from ...onnx_file.read import MOST_ROTATED
from ...op.quantization import SIGNED_LEVELS
from ...op.smoothing import MEAN_BITS
from ...op.spec import BLOCK_SIZES
from .builder import GraphBuilder, Value
from .layout import KeyLayout, halving_sum, padded_summaries
from .quantize import quantized, quantized_apart
from .stages import Formals, Sizes

PARTS = 3
"""Products of a logit."""

ROTATION_STEPS = MOST_ROTATED.bit_length() - 1
"""Most strides of a rotation. The function does not know how many its nodes need."""

LARGEST_FLOATS = (3.4028234663852886e38, 3.3895313892515355e38, 65504.0)
"""Largest numbers of float32, bfloat16 and float16: the first one that a type has is its own."""


class Smoothing(NamedTuple):
    """The attribute and its input.

    used: BOOL scalar; channels: INT64 scalar, those of a prepared query or key.
    signs: FLOAT [Hk, D] of 1 and -1; rotated: BOOL [Hk]; head_dim: INT64 scalar, D.
    """

    graph: GraphBuilder
    used: Value
    channels: Value
    signs: Value
    rotated: Value
    head_dim: Value

    @classmethod
    def of(cls, graph: GraphBuilder, formals: Formals) -> Smoothing:
        rotation = formals.rotation
        assert rotation is not None  # the function has this feature
        used = graph.attribute("smoothing", int)
        # Of a constant, so that runtimes know how many strides there are.
        head_dim = graph.op("Shape", rotation).take(1)
        # Without control flow both branches of `or_plain` have the same shape.
        parts = used * (PARTS - 1) + 1 if graph.control_flow else graph.constant(PARTS)
        wide = rotation.cast(TensorProto.INT64)
        return cls(
            graph,
            used=used.cast(TensorProto.BOOL),
            channels=head_dim * parts,
            signs=graph.where(wide < 0, -1.0, 1.0),
            rotated=~wide.take(0, axis=1).equals(0),
            head_dim=head_dim,
        )

    def or_plain(self, smoothed: Callable[[], Value], plain: Callable[[], Value]) -> Value:
        """What `smoothed` computes where the attribute is 1, else what `plain` does."""

        def of_same_shape() -> Value:
            values = plain()
            if self.graph.control_flow:
                return values
            nothing = zeros_like(values)
            return self.graph.concat(values, nothing, nothing, axis=-1)

        return self.graph.choose(self.used, smoothed, of_same_shape)

    def rotate(self, x: Value, signs: Value, rotated: Value) -> Value:
        """x [..., D] in rotated channels; signs [..., D] and rotated [..., 1] are of its heads.

        A step makes each pair of neighbours a sum and a difference and puts all sums before all
        differences. In the next step the neighbours are what was twice as far apart.
        """
        graph, half = self.graph, self.head_dim // 2
        rows = (x * signs).reshape(-1, self.head_dim)

        def step(values: Value) -> Value:
            pairs = values.reshape(-1, half, 2)
            first, second = pairs.take(0, axis=2), pairs.take(1, axis=2)
            return graph.concat(first + second, first - second, axis=1)

        for index in range(ROTATION_STEPS):
            rows = self._step_or_not(rows, step, 1 << index)
        # ONNX Runtime makes a division of x * (1 / y), which rounds otherwise; not of this.
        scaled = rows * graph.op("Sqrt", graph.constant(1.0) / self.head_dim.floats())
        return graph.where(rotated, graph.op("Reshape", scaled, graph.op("Shape", x)), x)

    def _step_or_not(self, rows: Value, step: Callable[[Value], Value], stride: int) -> Value:
        there_is = self.graph.constant(stride) < self.head_dim
        return self.graph.choose(there_is, lambda: step(rows), lambda: rows)

    def of_summaries(self, keys: Value) -> Value:
        """Keys [..., D] that only the rows meet, [..., 3 D]."""
        nothing = zeros_like(keys)
        return self.graph.concat(nothing, nothing, keys, axis=-1)


def rotated_key(layout: KeyLayout, smoothing: Smoothing, moved: Value) -> Value:
    """Preconditioned blocks [B, Hk, N, block_k, D] rotated, missing tokens zero."""
    signs = smoothing.signs.unsqueeze(1, 2)
    return smoothing.rotate(layout.present(moved), signs, smoothing.rotated.unsqueeze(1, 2, 3))


def smoothed_key(layout: KeyLayout, smoothing: Smoothing, rotated: Value) -> Value:
    """[B, Hk, M, block_k, 3 D] of what `rotated_key` returned."""
    graph, sizes = layout.graph, layout.sizes
    levels = graph.constant(float(SIGNED_LEVELS[MEAN_BITS]))

    def by_block(x: Value, reduce: Callable[..., Value]) -> Value:
        return reduce(x, 3, 4)

    mean = layout.block_means(rotated)
    centred = layout.present(rotated - mean.unsqueeze(3))
    groups = (sizes.token_blocks + sizes.block_k - 1) // sizes.block_k
    means = quantized(graph, padded_summaries(graph, mean, groups, sizes), levels, by_block)
    summaries = means.values()
    rows = groups * sizes.block_k
    of_block = summaries.reshape(sizes.batch, sizes.kv_heads, rows, sizes.head_dim)
    of_block = of_block.take(graph.arange(sizes.token_blocks), axis=2).unsqueeze(3)
    tokens = graph.concat(
        quantized_apart(graph, centred, float(SIGNED_LEVELS[4])).values(),
        quantized(graph, centred, levels, by_block).values(),
        graph.op("Expand", of_block, graph.op("Shape", centred)),
        axis=4,
    )
    pooled = summaries.take(graph.arange(sizes.summary_blocks), axis=2)
    return graph.concat(tokens, smoothing.of_summaries(pooled), axis=2)


def smoothed_query(
    smoothing: Smoothing,
    query: Value,
    means: Value | None,
    equalizer: Value,
    formals: Formals,
    scale: Value,
    sizes: Sizes,
) -> Value:
    """[B, H, P, 3 D], with the softmax scale folded in; with `means`, [B, H, P + C, 3 D].

    query: [B, H, P, D]; means: [B, H, C, D], the mean queries of the correction; equalizer: [H, D].
    """
    graph = smoothing.graph
    head = graph.arange(sizes.heads) // sizes.group
    signs = smoothing.signs.take(head).unsqueeze(1)
    rotated = smoothing.rotated.take(head).unsqueeze(1, 2)

    def prepared(x: Value) -> Value:
        return smoothing.rotate(x * equalizer.unsqueeze(1), signs, rotated)

    def at_bits(x: Value, bits: int) -> Value:
        levels = graph.constant(float(SIGNED_LEVELS[bits]))
        codes = quantized(graph, x, levels, lambda x, reduce: reduce(x, 3))
        return codes._replace(scale=codes.scale * scale).values()

    rows = prepared(query)
    of_tile = held_in_type(
        graph, prepared(tile_means(graph, query, formals.key_length, sizes)), formals.query
    )
    tiles = (sizes.batch, sizes.heads, sizes.query_blocks, sizes.block_q, sizes.head_dim)
    spread = graph.op("Expand", of_tile.unsqueeze(3), graph.vector(*tiles))
    mean = graph.op("Reshape", spread, graph.op("Shape", rows))
    parts = graph.concat(at_bits(rows - mean, 4), mean * scale, at_bits(rows, MEAN_BITS), axis=3)
    if means is None:
        return parts
    dense = at_bits(prepared(means), MEAN_BITS)
    return graph.concat(parts, graph.concat(zeros_like(dense), dense, dense, axis=3), axis=2)


def tile_means(graph: GraphBuilder, query: Value, key_length: Value, sizes: Sizes) -> Value:
    """[B, H, NQ, D]: the mean of each query block's existing rows, of [B, H, P, D]."""
    length = key_length.cast(TensorProto.INT64).unsqueeze(1)
    exists = graph.arange(sizes.query_rows) < length
    lead, width = (sizes.batch, sizes.heads, sizes.query_blocks), min(BLOCK_SIZES)
    rows = graph.where(exists.unsqueeze(1, 3), query, 0.0)
    halves = rows.reshape(*lead, sizes.block_q // width, width, sizes.head_dim)
    total = halving_sum(halves.sum(3, keep=False), lead, width, sizes.head_dim)
    count = exists.floats().reshape(sizes.batch, sizes.query_blocks, sizes.block_q)
    return total / graph.op("Max", count.sum(2, keep=False), 1.0).unsqueeze(1, 3)


def held_in_type(graph: GraphBuilder, x: Value, like: Value) -> Value:
    """x within the finite range of the type of `like`, rounded to it, as FLOAT.

    Where instead of Clip, which loses NaN in some runtimes.
    """
    largest = graph.constant(LARGEST_FLOATS[-1])
    for number in reversed(LARGEST_FLOATS[:-1]):
        in_type = graph.op("CastLike", number, like).floats()
        largest = graph.where(in_type < math.inf, in_type, largest)
    held = graph.where(x > largest, largest, x)
    smallest = largest * -1.0
    return graph.op("CastLike", graph.where(held < smallest, smallest, held), like).floats()


def zeros_like(x: Value) -> Value:
    """FLOAT zeros of the shape of x."""
    return x.graph.op("ConstantOfShape", x.graph.op("Shape", x))
