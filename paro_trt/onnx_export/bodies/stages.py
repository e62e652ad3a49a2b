"""The values that the stages of the function body pass to each other.

Letters that op/spec.py does not define: P = NQ * block_q rows of queries; N = NK + 1 blocks of
tokens; G blocks of summary tokens, or 0 without pooling; M = N + G. The last of the N blocks never
holds tokens. A query block with nothing to attend attends this block, and its output is zeros.
With mean correction there are C runs of CORRECTION_ROWS rows of queries.
"""

from __future__ import annotations

from typing import NamedTuple

from ...op.quantization import SIGNED_LEVELS
from ...op.spec import OP_VERSION, OP_VERSION_2
from .builder import GraphBuilder, Value


class Features(NamedTuple):
    """What a function computes of version 2 of the op; the names are those of the attributes.

    A function has what any node of its file uses, so that no file pays for the rest.
    """

    fine_summaries: bool = False
    mean_correction: bool = False
    routing: bool = False
    smoothing: bool = False

    @property
    def version(self) -> int:
        """The version of the op that the function is of."""
        return OP_VERSION_2 if any(self) else OP_VERSION


NO_FEATURES = Features()


class Formals(NamedTuple):
    """The function's inputs, in the order of `op.spec.op_inputs`; the last four: version 2."""

    query: Value
    key: Value
    value: Value
    token_order: Value
    head_order: Value
    block_mask: Value
    tile_order: Value
    channel_affine: Value
    mask_bin: Value
    key_length: Value
    fine_mask: Value | None = None
    corrected_heads: Value | None = None
    dynamic_blocks: Value | None = None
    rotation: Value | None = None


class Bits(NamedTuple):
    """One bit width attribute (BOOL scalars) and its largest signed code (FLOAT scalar)."""

    unquantized: Value
    four: Value
    levels: Value

    @classmethod
    def of(cls, graph: GraphBuilder, name: str) -> Bits:
        bits = graph.attribute(name, int)
        four = bits.equals(4)
        levels = graph.where(four, float(SIGNED_LEVELS[4]), float(SIGNED_LEVELS[8]))
        return cls(bits.equals(16), four, levels)


class Sizes(NamedTuple):
    """INT64 scalars; `pooled` is the attribute pool_dropped."""

    batch: Value
    tokens: Value
    heads: Value
    kv_heads: Value
    group: Value
    head_dim: Value
    block_q: Value
    block_k: Value
    query_blocks: Value
    query_rows: Value
    key_blocks: Value
    token_blocks: Value
    pooled: Value
    summary_blocks: Value

    @classmethod
    def of(cls, graph: GraphBuilder, formals: Formals) -> Sizes:
        query_shape, key_shape = graph.op("Shape", formals.query), graph.op("Shape", formals.key)
        batch, tokens, heads, head_dim = (query_shape.take(axis) for axis in range(4))
        kv_heads = key_shape.take(2)
        block_q, block_k = graph.attribute("block_q", int), graph.attribute("block_k", int)
        query_blocks = (tokens + block_q - 1) // block_q
        key_blocks = (tokens + block_k - 1) // block_k
        token_blocks = key_blocks + 1
        groups = (token_blocks + block_k - 1) // block_k
        pooled = graph.attribute("pool_dropped", int)
        return cls(
            batch=batch,
            tokens=tokens,
            heads=heads,
            kv_heads=kv_heads,
            group=heads // kv_heads,
            head_dim=head_dim,
            block_q=block_q,
            block_k=block_k,
            query_blocks=query_blocks,
            query_rows=query_blocks * block_q,
            key_blocks=key_blocks,
            token_blocks=token_blocks,
            pooled=pooled,
            summary_blocks=groups * pooled,
        )


def softmax_scale(graph: GraphBuilder, sizes: Sizes) -> Value:
    """The factor on the logits: the attribute, or its default."""
    given = graph.attribute("scale", float)
    default = graph.constant(1.0) / graph.op("Sqrt", sizes.head_dim.floats())
    return graph.where(given.equals(0.0), default, given)


class Tiles(NamedTuple):
    """The (sample, head, query block) tiles that a loop takes one at a time, in this order.

    total: INT64 scalar, how many. Of each tile, INT64 [total]: its sample, its key/value head among
    those of all samples, its query block.
    """

    sizes: Sizes
    total: Value
    sample: Value
    kv_head: Value
    query_block: Value

    @classmethod
    def of(cls, graph: GraphBuilder, sizes: Sizes) -> Tiles:
        of_sample = sizes.heads * sizes.query_blocks
        count = sizes.batch * of_sample
        tile = graph.arange(count)
        return cls(
            sizes,
            count,
            sample=tile // of_sample,
            kv_head=tile // (sizes.query_blocks * sizes.group),
            query_block=tile % sizes.query_blocks,
        )


class FineKeys(NamedTuple):
    """The groups of four summary tokens of fine key blocks.

    key, value: [B, Hk, N, 4, E] and [B, Hk, N, 4, D], as `Prepared` has them.
    value_mean: [Hk, D], 0 at 16 bits: it stands for the mass that codes of P lose.
    attended: BOOL [B, H, NQ, N]; the last block, whose group is absent, always is.
    bias: [B, N, 4], log of the tokens that a summary represents, -inf where there are none.
    """

    key: Value
    value: Value
    value_mean: Value
    attended: Value
    bias: Value


class Correction(NamedTuple):
    """What mean correction needs.

    query: [B, H, NQ, 1, D], each query block's mean query, quantized as its rows are.
    heads: BOOL [H], the heads that are corrected.
    """

    query: Value
    heads: Value


class Prepared(NamedTuple):
    """What attention and the restoring of the token order need.

    sizes, qk, pv: see there.
    order: INT64 [H, S], each head's row of token_order.
    channels: INT64 scalar E, those of query and key: D, or 3 D where they are smoothed.
    query: [B, H, P, E], with the softmax scale folded in.
    key: [B, Hk, M, block_k, E]; value: [B, Hk, M, block_k, D]. The value affine is undone here,
        which commutes with attention since rows of P sum to one.
    anything: BOOL [B, H, NQ, 1], whether a query block has anything to attend.
    attended: BOOL [B, H, NQ, M].
    token_bias: [B, N, block_k], 0 for a token and -inf where there is none.
    summary_bias: [B, H, NQ, G, block_k], log of the tokens a summary stands for, -inf where its
        block is exact or fine or has no token.
    fine, correction: None where the function has not this feature.
    """

    sizes: Sizes
    qk: Bits
    pv: Bits
    channels: Value
    order: Value
    query: Value
    key: Value
    value: Value
    anything: Value
    attended: Value
    token_bias: Value
    summary_bias: Value
    fine: FineKeys | None
    correction: Correction | None
