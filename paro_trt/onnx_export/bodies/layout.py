"""Tokens gathered in their head's order and divided into blocks, and means of runs of them."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

from ...op.spec import BLOCK_SIZES
from .builder import GraphBuilder, Value
from .stages import Formals, Sizes


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
    """Extend [H, S] to [H, rows] by repeating the last token."""
    positions = graph.op("Min", graph.arange(rows), sizes.tokens - 1)
    return order.take(positions, axis=1)


def halving_sum(rows: Value, lead: tuple[Value | int, ...], width: int, head_dim: Value) -> Value:
    """Sum [*lead, width, D] over rows in the op's order: add halves until one is left.

    Every ReduceSum adds two numbers, so that every runtime adds in the same order.
    """
    total = rows
    while width > 1:
        width //= 2
        total = total.reshape(*lead, 2, width, head_dim).sum(len(lead), keep=False)
    return total.reshape(*lead, head_dim)


class KeyLayout(NamedTuple):
    """How keys and values are divided into blocks.

    order: INT64 [Hk, S]; exists: BOOL [B, N, block_k]; tokens_in_block: FLOAT [B, N].
    """

    graph: GraphBuilder
    order: Value
    exists: Value
    tokens_in_block: Value
    sizes: Sizes

    def token_blocks(self, x: Value) -> Value:
        """[B, S, Hk, D] -> FLOAT [B, Hk, N, block_k, D]."""
        sizes = self.sizes
        rows = padded_order(self.graph, self.order, sizes.token_blocks * sizes.block_k, sizes)
        return reordered(self.graph, x, rows, sizes.kv_heads, sizes).reshape(
            sizes.batch, sizes.kv_heads, sizes.token_blocks, sizes.block_k, sizes.head_dim
        )

    @property
    def lead(self) -> tuple[Value, ...]:
        """The sizes B, Hk, N."""
        return (self.sizes.batch, self.sizes.kv_heads, self.sizes.token_blocks)

    def present(self, blocks: Value) -> Value:
        """`blocks` [B, Hk, N, block_k, D] with missing tokens set to zero."""
        return self.graph.where(self.exists.unsqueeze(1, 4), blocks, 0.0)

    def block_means(self, present: Value) -> Value:
        """[B, Hk, N, D]: the mean of each block's existing tokens, of what `present` returned."""
        count = self.graph.op("Max", self.tokens_in_block, 1.0)
        sizes, width = self.sizes, min(BLOCK_SIZES)
        parts = present.reshape(*self.lead, sizes.block_k // width, width, sizes.head_dim)
        total = halving_sum(parts.sum(3, keep=False), self.lead, width, sizes.head_dim)
        return total / count.unsqueeze(1, 3)

    def run_means(self, present: Value, runs: Value | int, width: int) -> tuple[Value, Value]:
        """Means of the `runs` equal runs of each block: [B, Hk, N, runs, D] and their counts of
        tokens, FLOAT [B, N, runs].

        width: a power of two that divides the run, which has at most twice as many tokens.
        """
        sizes, lead = self.sizes, (*self.lead, runs)
        halves = present.reshape(*lead, sizes.block_k // runs // width, width, sizes.head_dim)
        total = halving_sum(halves.sum(4, keep=False), lead, width, sizes.head_dim)
        count = self.tokens_in_run(runs)
        return total / self.graph.op("Max", count, 1.0).unsqueeze(1, 4), count

    def tokens_in_run(self, runs: Value | int) -> Value:
        """FLOAT [B, N, runs]."""
        sizes = self.sizes
        by_run = (sizes.batch, sizes.token_blocks, runs, sizes.block_k // runs)
        return self.exists.reshape(*by_run).floats().sum(3, keep=False)

    def with_summaries(self, blocks: Value) -> Value:
        """Set missing tokens to zero, then append the blocks of summaries: [B, Hk, M, ...]."""
        present = self.present(blocks)
        mean = self.block_means(present)
        summaries = padded_summaries(self.graph, mean, self.sizes.summary_blocks, self.sizes)
        return self.graph.concat(present, summaries, axis=2)


def padded_summaries(graph: GraphBuilder, mean: Value, groups: Value, sizes: Sizes) -> Value:
    """Block means [B, Hk, N, D] as `groups` blocks of keys [B, Hk, groups, block_k, D], zeros at
    the end."""
    rows = groups * sizes.block_k
    positions = graph.arange(rows)
    exists = (positions < sizes.token_blocks).unsqueeze(1)
    tokens = mean.take(graph.op("Min", positions, sizes.token_blocks - 1), axis=2)
    return graph.where(exists, tokens, 0.0).reshape(
        sizes.batch, sizes.kv_heads, groups, sizes.block_k, sizes.head_dim
    )


class Gathered:
    """Query, key and value in their heads' orders, each gathered where it is first used.

    That must not be inside a branch or loop.
    """

    def __init__(self, layout: KeyLayout, formals: Formals, order: Value) -> None:
        self._layout, self._formals, self._order = layout, formals, order

    @cached_property
    def query(self) -> Value:
        """FLOAT [B, H, P, D]."""
        return self.query_rows(self._layout.sizes.query_rows)

    def query_rows(self, count: Value) -> Value:
        """FLOAT [B, H, count, D]: the first rows, the last one repeated past the end."""
        graph, sizes = self._layout.graph, self._layout.sizes
        rows = padded_order(graph, self._order, count, sizes)
        return reordered(graph, self._formals.query, rows, sizes.heads, sizes)

    @cached_property
    def key(self) -> Value:
        """FLOAT [B, Hk, N, block_k, D]."""
        return self._layout.token_blocks(self._formals.key)

    @cached_property
    def value(self) -> Value:
        """FLOAT [B, Hk, N, block_k, D]."""
        return self._layout.token_blocks(self._formals.value)

    def stored(self, x: Value) -> Value:
        """x rounded to the type of the inputs, as FLOAT."""
        return self._layout.graph.op("CastLike", x, self._formals.query).floats()
