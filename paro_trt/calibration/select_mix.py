"""Which key blocks are exact, fine or coarse: one budget of keys, spent where it buys the most.

A block costs one key as coarse, four as fine and `block_k` as exact, and its error falls with
each. The choice minimises error + lambda * keys: every block takes the steps on the lower convex
hull of its three (keys, error) points whose gain a key is above lambda, and the smallest lambda
that the budget allows is taken.

Blocks whose gain is near lambda may as well be one kind as the other, and are what their neighbours
are: the file of a plan gets smaller, and two query blocks of 64 rows share more key blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..op.spec import COARSE_KEYS, FINE_SUMMARIES
from ..plan import BlockCounts
from .select_mask import Allocation, LayerMasks, LayerScores, block_budget, describe_masks

NEIGHBOURS_PULL = 0.5
"""How much the four blocks around a block, or none of them, change its gain: by half of this as an
exponent. FORMAT.md has what it saves, docs/method.md what it costs."""


class BlockMix(NamedTuple):
    """What key blocks are, of any equal shape: exact: bool; fine: bool, not exact. The rest is
    coarse."""

    exact: NDArray[np.bool_]
    fine: NDArray[np.bool_]

    def keys(self, block_k: int) -> int:
        """Keys that all of these blocks cost."""
        exact, fine = int(self.exact.sum()), int(self.fine.sum())
        return BlockCounts(exact, fine, self.exact.size - exact - fine).keys(block_k)


class BlockErrors(NamedTuple):
    """What a mix of blocks is chosen by.

    coarse, fine: f32 [..., NQ, NK], squared error that a coarse and that a fine block costs.
    forced: bool [NQ, NK], blocks that are exact in any case. block_k: tokens in a key block.
    """

    coarse: NDArray[np.float32]
    fine: NDArray[np.float32]
    forced: NDArray[np.bool_]
    block_k: int


def select_mixes(
    layers: Sequence[LayerScores],
    forced: NDArray[np.bool_],
    cost: float,
    tokens: int,
    block_k: int,
    allocation: Allocation,
) -> tuple[LayerMasks, ...]:
    """The mix of all layers at a cost.

    The keys of those who share a budget are at most cost * S for each query block, bin and head,
    and less than one block below it, except where the forced blocks alone cost more.

    Args:
        layers: scores of each layer, with fine errors, of equal query and key blocks.
        forced: bool [NQ, NK], blocks that are exact in any case.
        cost: keys that a query meets / S.
        tokens: S.
        block_k: tokens in a key block.
        allocation: who shares a budget, of `SHARED_BUDGETS`.
    """
    errors = [layer.error for layer in layers]
    fine_errors = [_fine_error(layer) for layer in layers]

    def best(error: NDArray[np.float32], fine_error: NDArray[np.float32]) -> BlockMix:
        rows = error.size // error.shape[-1]
        errors = BlockErrors(error, fine_error, forced, block_k)
        return smooth_mix(errors, block_budget(cost, rows * tokens))

    if allocation is Allocation.MODEL:
        whole = best(np.stack(errors), np.stack(fine_errors))
        mixes = [BlockMix(*planes) for planes in zip(*whole, strict=True)]
    elif allocation is Allocation.LAYER:
        mixes = [best(*of_layer) for of_layer in zip(errors, fine_errors, strict=True)]
    else:
        mixes = [_of_heads(*of, best) for of in zip(errors, fine_errors, strict=True)]
    return tuple(
        describe_masks(layer, mix.exact, mix.fine) for layer, mix in zip(layers, mixes, strict=True)
    )


def _of_heads(
    error: NDArray[np.float32],
    fine_error: NDArray[np.float32],
    best: Callable[[NDArray[np.float32], NDArray[np.float32]], BlockMix],
) -> BlockMix:
    """The mix of a layer whose heads and bins have a budget each."""
    exact, fine = np.empty((2, *error.shape), dtype=bool)
    for index in np.ndindex(error.shape[:2]):
        exact[index], fine[index] = best(error[index], fine_error[index])
    return BlockMix(exact, fine)


def _fine_error(layer: LayerScores) -> NDArray[np.float32]:
    """Without fine errors no block is worth being fine."""
    return layer.error if layer.fine_error is None else layer.fine_error


def smooth_mix(errors: BlockErrors, budget: int) -> BlockMix:
    """As `best_mix`, but blocks near the price follow their neighbours in the best mix.

    A step gains more where the block's neighbours (the key blocks before and after it, the same
    key block of the query blocks before and after) take it, and less where they do not.
    """
    best = best_mix(errors, budget)
    pulled = errors.fine * _pull(best.exact)
    gain = np.maximum(errors.coarse - errors.fine, np.float32(0))
    saved = gain * _pull(best.exact | best.fine)
    return best_mix(errors._replace(coarse=pulled + saved, fine=pulled), budget)


def _pull(chosen: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The factor on each block's gain; past an edge, a block is its own neighbour."""
    number = np.zeros(chosen.shape, dtype=np.uint8)
    for axis in (chosen.ndim - 2, chosen.ndim - 1):
        for step in (-1, 1):
            index = np.arange(chosen.shape[axis]) + step
            number += np.take(chosen, np.clip(index, 0, len(index) - 1), axis)
    share = np.arange(5, dtype=np.float32) / 4
    return np.exp(np.float32(NEIGHBOURS_PULL) * (share - np.float32(0.5)))[number]


def best_mix(errors: BlockErrors, budget: int) -> BlockMix:
    """The mix of least error within a budget of keys, up to less than one block.

    Where the forced blocks alone exceed the budget, they are exact and the rest is coarse.

    Args:
        errors: of the blocks that share the budget.
        budget: keys.
    """
    steps, block_k = _hull_steps(errors), errors.block_k
    left = budget - BlockMix(steps.forced, np.zeros_like(steps.forced)).keys(block_k)
    threshold = _least_threshold(steps, left)
    first, second = steps.first > threshold, steps.second > threshold
    left -= steps.cost(first, second)
    for index, is_first in _ties(steps, threshold):
        cost = int(steps.first_keys.flat[index]) if is_first else steps.second_keys
        if cost > left:
            break
        left -= cost
        (first if is_first else second).flat[index] = True
    whole = first & (steps.first_keys == block_k - COARSE_KEYS)
    exact = steps.forced | whole | second
    return BlockMix(exact, first & ~exact)


class _HullSteps(NamedTuple):
    """Steps that blocks can take, by gain a key as the bits of a float32, which order as it does.

    first: int32, from coarse to fine, or to exact where fine is not on the hull; -1: none.
    first_keys: int32, what it costs. second: int32, from fine to exact; -1: none. Where a block
    has both, its first gains more.
    """

    forced: NDArray[np.bool_]
    first: NDArray[np.int32]
    first_keys: NDArray[np.int32]
    second: NDArray[np.int32]
    second_keys: int

    def cost(self, first: NDArray[np.bool_], second: NDArray[np.bool_]) -> int:
        """Keys that these steps cost."""
        of_first = int(self.first_keys.sum(where=first, dtype=np.int64))
        return of_first + self.second_keys * int(second.sum())


def _hull_steps(errors: BlockErrors) -> _HullSteps:
    error, fine_error, forced, block_k = errors
    to_fine, to_exact = FINE_SUMMARIES - COARSE_KEYS, block_k - FINE_SUMMARIES
    at_once = to_fine + to_exact
    forced = np.broadcast_to(forced, error.shape)
    into_fine = (error - fine_error) / np.float32(to_fine)
    into_exact = fine_error / np.float32(to_exact)
    fine = into_fine > into_exact
    first = np.where(fine, into_fine, error / np.float32(at_once))
    return _HullSteps(
        forced,
        np.where(forced, np.int32(-1), _ordered(first)),
        np.where(fine, np.int32(to_fine), np.int32(at_once)),
        np.where(fine & ~forced, _ordered(into_exact), np.int32(-1)),
        to_exact,
    )


def _ordered(gain: NDArray[np.float32]) -> NDArray[np.int32]:
    # Adding 0 turns -0 into 0; floats that are not negative order as their bits do.
    return (np.maximum(gain, np.float32(0)) + np.float32(0)).view(np.int32)


def _least_threshold(steps: _HullSteps, budget: int) -> int:
    """The least threshold, such that steps above it fit the budget; the largest where none do."""
    low, high = -1, int(np.float32(np.inf).view(np.int32))
    while low < high:
        middle = (low + high) // 2
        if steps.cost(steps.first > middle, steps.second > middle) <= budget:
            high = middle
        else:
            low = middle + 1
    return low


def _ties(steps: _HullSteps, threshold: int) -> list[tuple[int, bool]]:
    """Steps at the threshold, in the order of the blocks: (flat index, whether it is a first)."""
    if threshold < 0:
        return []
    first = np.flatnonzero(steps.first == threshold)
    second = np.flatnonzero(steps.second == threshold)
    return sorted([*((int(i), True) for i in first), *((int(i), False) for i in second)])
