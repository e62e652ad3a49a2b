"""Quantization in ONNX, with the same operations as paro_trt/op/quantization.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from onnx import TensorProto

from ...op.quantization import PROBABILITY_LEVELS, SMALLEST_MAXIMUM
from .builder import GraphBuilder, Value
from .stages import Bits

Reduce = Callable[..., Value]
"""`Value.max` or `Value.sum`: called with the values and the axes to reduce."""


class Codes(NamedTuple):
    """Quantized values, represented by `codes * scale`."""

    codes: Value
    scale: Value

    def values(self) -> Value:
        return self.codes * self.scale


def quantized(
    graph: GraphBuilder, x: Value, levels: Value, grouped: Callable[[Value, Reduce], Value]
) -> Codes:
    """As op.quantization.quantize; `grouped(values, reduce)` reduces over values with one scale.

    Codes need no clamp: x times levels / max|x| exceeds levels by two roundings at most.
    """
    magnitude = graph.op("Abs", x)
    maximum = grouped(magnitude, Value.max)
    # A maximum may lose a NaN, but a sum does not. `taint` is 0 for finite groups and NaN for all
    # others. It is also NaN for a group whose sum overflows FLOAT; no product would survive there.
    taint = grouped(magnitude, Value.sum) * 0.0
    usable = maximum > SMALLEST_MAXIMUM
    codes = graph.op("Round", x * (levels / graph.where(usable, maximum, 1.0)))
    return Codes(codes, graph.where(usable, maximum / levels, 0.0) + taint)


def quantized_apart(graph: GraphBuilder, x: Value, levels: float) -> Codes:
    """As op.quantization.quantize_keys_apart: a scale for each row of the last axis, in bfloat16.

    Codes need no clamp: rounding makes a scale smaller by one part in 256 at most, and
    round(7 * 257 / 256) is 7.
    """
    alone = quantized(graph, x, graph.constant(levels), lambda x, reduce: reduce(x, -1))
    scale = alone.scale.cast(TensorProto.BFLOAT16).floats()
    usable = scale > 0.0
    # Where also keeps ONNX Runtime from making a division of x * (1 / y), which rounds otherwise.
    inverse = graph.where(usable, graph.constant(1.0) / graph.where(usable, scale, 1.0), 0.0)
    return Codes(graph.op("Round", x * inverse), scale)


def preconditioned(blocks: Value, mean: Value, factor: Value) -> Value:
    """(x - mean) * (1 / factor); blocks [B, Hk, N, block_k, D], mean and factor [Hk, D]."""
    reciprocal = blocks.graph.constant(1.0) / factor
    return (blocks - mean.unsqueeze(1, 2)) * reciprocal.unsqueeze(1, 2)


def probability_levels(graph: GraphBuilder, pv: Bits) -> Value:
    """The largest code of P. Only the ratio of codes matters, so they are not divided by it."""
    return graph.where(pv.four, float(PROBABILITY_LEVELS[4]), float(PROBABILITY_LEVELS[8]))
