"""The values that the stages of the function body pass to each other.

Letters that op/spec.py does not define: P = NQ * block_q rows of queries; N = NK + 1 blocks of
tokens; G blocks of summary tokens, or 0 without pooling; M = N + G. The last of the N blocks never
holds tokens. A query block with nothing to attend attends this block, and its output is zeros.
"""

from __future__ import annotations

from typing import NamedTuple

from ...op.quantization import SIGNED_LEVELS
from .builder import GraphBuilder, Value


class Formals(NamedTuple):
    """The function's inputs, in the order of `op.spec.INPUTS`."""

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


class Prepared(NamedTuple):
    """What attention and the restoring of the token order need.

    sizes, qk, pv: see there.
    order: INT64 [H, S], each head's row of token_order.
    query: [B, H, P, D], with the softmax scale folded in.
    key, value: [B, Hk, M, block_k, D]; the value affine is undone here, which commutes with
        attention since rows of P sum to one.
    anything: BOOL [B, H, NQ, 1], whether a query block has anything to attend.
    attended: BOOL [B, H, NQ, M].
    token_bias: [B, N, block_k], 0 for a token and -inf where there is none.
    summary_bias: [B, H, NQ, G, block_k], log of the tokens a summary stands for, -inf where its
        block is on the mask or has no token.
    """

    sizes: Sizes
    qk: Bits
    pv: Bits
    order: Value
    query: Value
    key: Value
    value: Value
    anything: Value
    attended: Value
    token_bias: Value
    summary_bias: Value
