"""Stage 1 in ONNX: reorder by token_order, precondition, quantize, unpack the mask.

Mirrors paro_trt/op/reference.py and quantization.py. Quantized tensors are kept as
`codes * scale` in FLOAT. Letters beside those of op/spec.py: P = NQ * block_q rows of queries;
N = NK + 1 blocks of tokens, the last of which never holds any (a query block with nothing to
attend attends that one and comes out as zeros); G blocks of summary tokens, 0 where dropped
blocks vanish; M = N + G.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from onnx import TensorProto

from ...op.quantization import PROBABILITY_LEVELS, SIGNED_LEVELS, SMALLEST_MAXIMUM
from ...op.spec import MASK_WORD_BITS
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
    """INT64 scalars."""

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
            summary_blocks=groups * graph.attribute("pool_dropped", int),
        )


class Prepared(NamedTuple):
    """What attention and the restoring of the token order need.

    sizes, qk, pv: see there.
    order: INT64 [H, S], each head's row of token_order.
    query: [B, H, P, D], with the softmax scale folded in.
    key, value: [B, Hk, M, block_k, D]; the value affine is undone here, which commutes with
        attention since rows of P sum to one.
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
    attended: Value
    token_bias: Value
    summary_bias: Value


Reduce = Callable[..., Value]
"""`Value.max` or `Value.sum`: called with the values and the axes to reduce."""


def quantized(
    graph: GraphBuilder, x: Value, bits: Bits, grouped: Callable[[Value, Reduce], Value]
) -> Value:
    """Codes times scale, as op.quantization.quantize; x itself where bits say unquantized.

    `grouped(values, reduce)` reduces values over what shares a scale. Codes need no clamp: x
    times levels / max|x| exceeds levels by two roundings at most.
    """
    # An ONNX maximum may lose a NaN; a sum of products by zero keeps NaN and infinity as NaN.
    taint = grouped(x * 0.0, Value.sum)
    maximum = grouped(graph.op("Abs", x), Value.max)
    usable = maximum > SMALLEST_MAXIMUM
    codes = graph.op("Round", x * (bits.levels / graph.where(usable, maximum, 1.0)))
    scale = graph.where(usable, maximum / bits.levels, 0.0)
    return graph.where(bits.unquantized, x, codes * (scale + taint))


def reordered(graph: GraphBuilder, x: Value, order: Value, heads: Value, sizes: Sizes) -> Value:
    """Gather [B, S, H, D] into FLOAT [B, H, R, D].

    order: INT64 [H, R], the token at each position of each head.
    """
    sample = graph.arange(sizes.batch).unsqueeze(1, 2)
    head = graph.arange(heads).unsqueeze(1)
    rows = (sample * sizes.tokens + order) * heads + head
    flat = x.reshape(sizes.batch * sizes.tokens * heads, sizes.head_dim)
    return flat.take(rows).floats()


def padded_order(graph: GraphBuilder, order: Value, rows: Value, sizes: Sizes) -> Value:
    """Extend [H, S] to [H, rows] with the last token, a stand-in for those that do not exist."""
    positions = graph.op("Min", graph.arange(rows), sizes.tokens - 1)
    return order.take(positions, axis=1)


class Affine(NamedTuple):
    """channel_affine, [Hk, D] each; the identity where the product is not quantized."""

    key_mean: Value
    equalizer: Value
    value_mean: Value
    value_scale: Value

    @classmethod
    def of(cls, graph: GraphBuilder, channel_affine: Value, qk: Bits, pv: Bits) -> Affine:
        rows = [channel_affine.take(row) for row in range(4)]
        bits, identity = (qk, qk, pv, pv), (0.0, 1.0, 0.0, 1.0)
        return cls(
            *(
                graph.where(width.unquantized, neutral, row)
                for width, neutral, row in zip(bits, identity, rows, strict=True)
            )
        )


def preconditioned(x: Value, mean: Value, factor: Value, exists: Value) -> Value:
    """(x - mean) / factor in blocks [B, Hk, N, block_k, D], 0 where no token exists."""
    graph = x.graph
    reciprocal = graph.constant(1.0) / factor
    moved = (x - mean.unsqueeze(1, 2)) * reciprocal.unsqueeze(1, 2)
    return graph.where(exists, moved, 0.0)


def prepare(graph: GraphBuilder, formals: Formals) -> Prepared:
    """Write stage 1."""
    sizes = Sizes.of(graph, formals)
    qk, pv = Bits.of(graph, "qk_bits"), Bits.of(graph, "pv_bits")
    order = formals.token_order.take(formals.head_order).cast(TensorProto.INT64)
    affine = Affine.of(graph, formals.channel_affine, qk, pv)
    per_head = graph.arange(sizes.heads) // sizes.group
    query = prepared_query(graph, formals.query, order, affine.equalizer.take(per_head), qk, sizes)
    exists = existing_tokens(graph, formals.key_length, sizes)
    count = exists.floats().sum(2, keep=False)
    key, value = prepared_keys(graph, formals, order, affine, (qk, pv), exists, count, sizes)
    listed = mask_rows(graph, formals, sizes) & (count > 0.0).unsqueeze(1, 2)
    return Prepared(
        sizes=sizes,
        qk=qk,
        pv=pv,
        order=order,
        query=query,
        key=key,
        value=value,
        attended=attended_blocks(graph, listed, sizes),
        token_bias=graph.where(exists, 0.0, -math.inf),
        summary_bias=summary_bias(graph, listed, count, sizes),
    )


def prepared_query(
    graph: GraphBuilder, query: Value, order: Value, equalizer: Value, qk: Bits, sizes: Sizes
) -> Value:
    """[B, H, P, D], with the softmax scale folded in."""
    rows = padded_order(graph, order, sizes.query_rows, sizes)
    moved = reordered(graph, query, rows, sizes.heads, sizes) * equalizer.unsqueeze(1)
    given = graph.attribute("scale", float)
    default = graph.constant(1.0) / graph.op("Sqrt", sizes.head_dim.floats())
    scale = graph.where(given.equals(0.0), default, given)
    return quantized(graph, moved, qk, lambda values, reduce: reduce(values, 3)) * scale


def existing_tokens(graph: GraphBuilder, key_length: Value, sizes: Sizes) -> Value:
    """BOOL [B, N, block_k]."""
    length = graph.op("Min", key_length.cast(TensorProto.INT64), sizes.tokens)
    positions = graph.arange(sizes.token_blocks * sizes.block_k)
    exists = positions < length.unsqueeze(1)
    return exists.reshape(sizes.batch, sizes.token_blocks, sizes.block_k)


def prepared_keys(
    graph: GraphBuilder,
    formals: Formals,
    order: Value,
    affine: Affine,
    bits: tuple[Bits, Bits],
    exists: Value,
    count: Value,
    sizes: Sizes,
) -> tuple[Value, Value]:
    """Keys and values [B, Hk, M, block_k, D]: blocks of tokens, then of summaries."""
    kv_order = order.take(graph.arange(sizes.heads, step=sizes.group))
    rows = padded_order(graph, kv_order, sizes.token_blocks * sizes.block_k, sizes)

    def blocks(x: Value, mean: Value, factor: Value) -> Value:
        moved = reordered(graph, x, rows, sizes.kv_heads, sizes).reshape(
            sizes.batch, sizes.kv_heads, sizes.token_blocks, sizes.block_k, sizes.head_dim
        )
        of_tokens = preconditioned(moved, mean, factor, exists.unsqueeze(1, 4))
        total = of_tokens.sum(3, keep=False)
        mean_of_block = total / graph.op("Max", count, 1.0).unsqueeze(1, 3)
        of_summaries = padded_summaries(graph, mean_of_block, sizes)
        return graph.concat(of_tokens, of_summaries, axis=2)

    qk, pv = bits
    key = blocks(formals.key, affine.key_mean, affine.equalizer)
    value = blocks(formals.value, affine.value_mean, affine.value_scale)

    def by_block_or_channel(values: Value, reduce: Reduce) -> Value:
        by_channel = reduce(values, 3)
        return graph.where(pv.four, by_channel, reduce(by_channel, 4))

    value_codes = quantized(graph, value, pv, by_block_or_channel)
    return (
        quantized(graph, key, qk, lambda values, reduce: reduce(values, 3, 4)),
        value_codes * affine.value_scale.unsqueeze(1, 2) + affine.value_mean.unsqueeze(1, 2),
    )


def padded_summaries(graph: GraphBuilder, mean: Value, sizes: Sizes) -> Value:
    """Block means [B, Hk, N, D] as blocks of keys [B, Hk, G, block_k, D], zeros at the end."""
    rows = sizes.summary_blocks * sizes.block_k
    positions = graph.arange(rows)
    exists = (positions < sizes.token_blocks).unsqueeze(1)
    tokens = mean.take(graph.op("Min", positions, sizes.token_blocks - 1), axis=2)
    return graph.where(exists, tokens, 0.0).reshape(
        sizes.batch, sizes.kv_heads, sizes.summary_blocks, sizes.block_k, sizes.head_dim
    )


def mask_rows(graph: GraphBuilder, formals: Formals, sizes: Sizes) -> Value:
    """BOOL [B, H, NQ, N]: each sample's mask, one bit a block of tokens."""
    bins = graph.op("Shape", formals.block_mask).take(0)
    chosen = formals.mask_bin.cast(TensorProto.INT64)
    clamped = graph.op("Max", graph.op("Min", chosen, bins - 1), 0)
    words = formals.block_mask.take(clamped).unsqueeze(4)
    single_bits = graph.constant([1 << bit for bit in range(MASK_WORD_BITS - 1)] + [-(1 << 31)])
    bits = graph.op("BitwiseAnd", words, single_bits.cast(TensorProto.INT32))
    unpacked = bits.cast(TensorProto.BOOL).reshape(sizes.batch, sizes.heads, sizes.query_blocks, -1)
    in_range = graph.arange(sizes.token_blocks) < sizes.key_blocks
    positions = graph.op("Min", graph.arange(sizes.token_blocks), sizes.key_blocks - 1)
    return unpacked.take(positions, axis=3) & in_range


def attended_blocks(graph: GraphBuilder, listed: Value, sizes: Sizes) -> Value:
    """BOOL [B, H, NQ, M]: listed blocks, or the last, empty one instead; all summary blocks."""
    nothing = ~listed.cast(TensorProto.INT32).max(3).cast(TensorProto.BOOL)
    is_last = graph.arange(sizes.token_blocks).equals(sizes.key_blocks)
    tokens = listed | (nothing & is_last)
    shape = graph.vector(sizes.batch, sizes.heads, sizes.query_blocks, sizes.summary_blocks)
    everywhere = graph.op("Expand", graph.constant(1).cast(TensorProto.BOOL), shape)
    return graph.concat(tokens, everywhere, axis=3)


def summary_bias(graph: GraphBuilder, listed: Value, count: Value, sizes: Sizes) -> Value:
    """[B, H, NQ, G, block_k], see `Prepared`."""
    positions = graph.arange(sizes.summary_blocks * sizes.block_k)
    exists = positions < sizes.token_blocks
    block = graph.op("Min", positions, sizes.token_blocks - 1)
    bias = graph.where(listed, -math.inf, graph.op("Log", count).unsqueeze(1, 2))
    padded = graph.where(exists, bias.take(block, axis=3), -math.inf)
    return padded.reshape(
        sizes.batch, sizes.heads, sizes.query_blocks, sizes.summary_blocks, sizes.block_k
    )


def probability_levels(graph: GraphBuilder, pv: Bits) -> Value:
    """Largest code of P; only the ratio of codes matters, so they are not divided by it."""
    return graph.where(pv.four, float(PROBABILITY_LEVELS[4]), float(PROBABILITY_LEVELS[8]))
