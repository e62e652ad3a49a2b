"""A model of a GPU that runs the thread blocks of stage 2 in the order of `tile_order`: how often a
step finds its keys and values in L2, and how long the last thread block keeps the others waiting.

A thread block takes one key block a step, in ascending order, after a prologue. As soon as one
ends, the next of the order starts in its place. L2 keeps the key blocks that were used last. There
are no caches above it and no bandwidth: hits and balance are what an order decides.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

OVERHEAD_STEPS = 6
"""Prologue and epilogue of a thread block, in the time of steps."""


@dataclass(frozen=True)
class Gpu:
    """slots: thread blocks that run at once. l2_bytes: of the whole GPU."""

    name: str
    slots: int
    l2_bytes: int


@dataclass(frozen=True)
class Layer:
    """One attention layer with 8-bit keys and values; block_q 128, block_k 64."""

    name: str
    tokens: int
    heads: int
    head_dim: int

    @property
    def query_blocks(self) -> int:
        return -(-self.tokens // 128)

    @property
    def key_blocks(self) -> int:
        return -(-self.tokens // 64)

    @property
    def block_bytes(self) -> int:
        """Of the keys and values of a key block."""
        return 2 * 64 * self.head_dim


@dataclass(frozen=True)
class Outcome:
    """hits: share of steps that find their key block in L2. makespan: of the time that slots which
    are never idle would take, at least 1."""

    hits: float
    makespan: float


def uneven_mask(layer: Layer, density: float, seed: int, sigma: float = 0.3) -> NDArray[np.bool_]:
    """bool [1, H, NQ, NK]: the diagonal and random blocks. The shares of rows vary by head and by
    row, each log-normally."""
    rng = np.random.default_rng(seed)
    rows, columns = layer.query_blocks, layer.key_blocks
    shares = np.exp(
        rng.normal(0, sigma, (layer.heads, 1)) + rng.normal(0, sigma, (layer.heads, rows))
    )
    shares *= density / shares.mean()
    mask = np.stack(
        [rng.random((rows, columns), dtype=np.float32) < share[:, None] for share in shares]
    )
    diagonal = np.arange(rows)
    mask[:, diagonal, np.minimum(2 * diagonal, columns - 1)] = True
    return mask[None]


def run(mask: NDArray[np.bool_], order: NDArray[np.int32], layer: Layer, gpu: Gpu) -> Outcome:
    """One call, batch 1.

    Args:
        mask: bool [1, H, NQ, NK].
        order: int32 [H*NQ], a row of `tile_order`.
    """
    tiles = mask.reshape(-1, layer.key_blocks)
    tile, block = np.nonzero(tiles)
    steps = tile // layer.query_blocks * layer.key_blocks + block  # the key block of each step
    counts = tiles.sum(axis=1)
    first = np.concatenate([[0], np.cumsum(counts)])
    slots, cache = (
        _Slots(gpu.slots, order, first),
        _Cache(gpu.l2_bytes // layer.block_bytes, tiles.size),
    )
    clock = hits = 0
    while slots.are_busy:
        due = slots.advance(clock)
        hits += cache.use(steps[due], clock)
        clock += 1
    ideal = (counts.sum() + OVERHEAD_STEPS * len(counts)) / gpu.slots
    return Outcome(hits / len(steps), clock / ideal)


class _Slots:
    """Thread blocks that run, by the steps that they still have to do."""

    def __init__(self, count: int, order: NDArray[np.int32], first: NDArray[np.int64]) -> None:
        self._order, self._first, self._taken = order, first, 0
        self._next, self._end, self._start = (np.zeros(count, dtype=np.int64) for _ in range(3))

    @property
    def are_busy(self) -> bool:
        return self._taken < len(self._order) or bool((self._next < self._end).any())

    def advance(self, clock: int) -> NDArray[np.int64]:
        """The steps done now; slots that have none left take their next thread block first."""
        empty = np.flatnonzero(self._next == self._end)[: len(self._order) - self._taken]
        if len(empty) > 0:
            tiles = self._order[self._taken : self._taken + len(empty)]
            self._taken += len(empty)
            self._next[empty], self._end[empty] = self._first[tiles], self._first[tiles + 1]
            self._start[empty] = clock + OVERHEAD_STEPS
        running = np.flatnonzero((self._start <= clock) & (self._next < self._end))
        due = self._next[running]
        self._next[running] += 1
        return due


class _Cache:
    """Least recently used key blocks leave first, all those of one moment together."""

    def __init__(self, capacity: int, blocks: int) -> None:
        self._capacity, self._size, self._oldest = capacity, 0, 0
        self._last_use = np.full(blocks, -1, dtype=np.int64)
        self._used_at: list[int] = []  # blocks whose last use was then

    def use(self, blocks: NDArray[np.int64], clock: int) -> int:
        """How many find their block; those that share one read it once."""
        distinct = np.unique(blocks)
        before = self._last_use[distinct]
        held = before[before >= self._oldest]
        for moment, count in zip(*np.unique(held, return_counts=True), strict=True):
            self._used_at[moment] -= int(count)
        self._last_use[distinct] = clock
        self._used_at.append(len(distinct))
        misses = len(distinct) - len(held)
        self._size += misses
        while self._size > self._capacity:
            self._size -= self._used_at[self._oldest]
            self._oldest += 1
        return len(blocks) - misses
