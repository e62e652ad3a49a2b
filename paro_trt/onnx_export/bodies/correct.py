"""Mean correction in ONNX: the mean query of each run of rows, which stage 2 attends as a row of
its own."""

from __future__ import annotations

from onnx import TensorProto

from ...op.spec import CORRECTION_ROWS
from .builder import GraphBuilder, Value
from .layout import Gathered, halving_sum
from .stages import Correction, Formals, Sizes


def mean_queries(graph: GraphBuilder, gathered: Gathered, key_length: Value, sizes: Sizes) -> Value:
    """[B, H, C, D]: the mean of each run's existing rows."""
    runs = (sizes.tokens + (CORRECTION_ROWS - 1)) // CORRECTION_ROWS
    query = gathered.query_rows(runs * CORRECTION_ROWS)
    length = key_length.cast(TensorProto.INT64).unsqueeze(1)
    exists = graph.arange(runs * CORRECTION_ROWS) < length
    lead = (sizes.batch, sizes.heads, runs)
    rows = graph.where(exists.unsqueeze(1, 3), query, 0.0)
    rows = rows.reshape(*lead, CORRECTION_ROWS, sizes.head_dim)
    count = exists.floats().reshape(sizes.batch, runs, CORRECTION_ROWS).sum(2, keep=False)
    total = halving_sum(rows, lead, CORRECTION_ROWS, sizes.head_dim)
    return total / graph.op("Max", count, 1.0).unsqueeze(1, 3)


def correction_of(graph: GraphBuilder, means: Value, formals: Formals, sizes: Sizes) -> Correction:
    """means: [B, H, C, D], quantized, with the softmax scale folded in."""
    assert formals.corrected_heads is not None  # the function has this feature
    run = graph.arange(sizes.query_blocks) * sizes.block_q // CORRECTION_ROWS
    used = graph.attribute("mean_correction", int)
    heads = formals.corrected_heads.cast(TensorProto.INT64) * used
    return Correction(means.take(run, axis=2).unsqueeze(3), heads.cast(TensorProto.BOOL))
