"""Stage 3 in ONNX: undo the reorder, in the type of the inputs."""

from __future__ import annotations

from onnx import TensorProto

from .builder import GraphBuilder, Value
from .stages import Formals, Prepared


def restore(graph: GraphBuilder, attended: Value, prepared: Prepared, formals: Formals) -> Value:
    """[B, H, P, D] in each head's order -> [B, S, H, D] in the original order.

    Rows at or past key_length, and rows with nothing to attend, become 0.
    """
    sizes = prepared.sizes
    length = formals.key_length.cast(TensorProto.INT64).unsqueeze(1, 2, 3)
    position = graph.arange(sizes.query_rows).reshape(sizes.query_blocks, sizes.block_q)
    defined = ((position < length) & prepared.anything).unsqueeze(4)
    tiles = attended.reshape(
        sizes.batch, sizes.heads, sizes.query_blocks, sizes.block_q, sizes.head_dim
    )
    output = graph.where(defined, tiles, 0.0)
    row_of_token = inverse_order(graph, prepared.order, sizes.tokens)
    sample = graph.arange(sizes.batch).unsqueeze(1, 2)
    rows = (sample * sizes.heads + graph.arange(sizes.heads)) * sizes.query_rows
    flat = output.reshape(sizes.batch * sizes.heads * sizes.query_rows, sizes.head_dim)
    return graph.op("CastLike", flat.take(rows + row_of_token.transpose(1, 0)), formals.query)


def inverse_order(graph: GraphBuilder, order: Value, tokens: Value) -> Value:
    """INT64 [H, S]: the position of each token, given the token at each position."""
    zeros = order * 0
    positions = zeros + graph.arange(tokens)
    return graph.op("ScatterElements", zeros, order, positions, axis=1)
