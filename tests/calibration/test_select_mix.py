"""Exact, fine or coarse: the budget is met, nothing of equal cost is better, forced blocks stay."""

import itertools
import math

import numpy as np
import pytest

from paro_trt.calibration.select_mask import SHARED_BUDGETS, Allocation, LayerScores, forced_blocks
from paro_trt.calibration.select_mix import (
    BlockErrors,
    BlockMix,
    best_mix,
    select_mixes,
    smooth_mix,
)
from paro_trt.calibration.statistics import Tiling
from paro_trt.plan import TextLayout

SHAPE = (2, 3, 6, 12)
BLOCK_K = 64
TOKENS = 12 * BLOCK_K
FORCED = forced_blocks(TOKENS, TextLayout(), Tiling(128, BLOCK_K))


def random_layer(seed: int, loudness: float = 1.0) -> LayerScores:
    rng = np.random.default_rng(seed)
    mass = rng.gamma(0.3, size=SHAPE) + 1e-6
    mass /= mass.sum(axis=(2, 3), keepdims=True)
    error = rng.gamma(0.3, size=SHAPE) * loudness
    # Some blocks gain nothing from four summaries, or even lose.
    fine_error = error * rng.uniform(0, 1.2, SHAPE)
    return LayerScores(
        error.astype(np.float32),
        mass.astype(np.float32),
        rng.uniform(0.5, 2, SHAPE[:2]),
        fine_error.astype(np.float32),
    )


def keys(masks, index=...) -> int:
    exact = masks.mask[index]
    fine = np.zeros_like(exact) if masks.fine is None else masks.fine[index]
    assert not (exact & fine).any()
    return int(BLOCK_K * exact.sum() + 4 * fine.sum() + (~exact & ~fine).sum())


@pytest.mark.parametrize("allocation", SHARED_BUDGETS)
@pytest.mark.parametrize("cost", [0.25, 0.3, 0.71, 1.0])
def test_the_cost_is_met_to_within_a_block(allocation, cost):
    layers = [random_layer(1), random_layer(2, loudness=5)]
    chosen = select_mixes(layers, FORCED, cost, TOKENS, BLOCK_K, allocation)
    budgets = {
        Allocation.MODEL: [sum(keys(masks) for masks in chosen)],
        Allocation.LAYER: [keys(masks) for masks in chosen],
        Allocation.HEAD: [
            keys(masks, index) for masks in chosen for index in np.ndindex(SHAPE[:2])
        ],
    }[allocation]
    allowed = cost * TOKENS * len(layers) * math.prod(SHAPE[:3]) / len(budgets)
    assert all(allowed - BLOCK_K < spent <= allowed + 1e-6 for spent in budgets)
    for masks in chosen:
        assert masks.mask[..., FORCED].all()


def left_out(layer, masks) -> np.ndarray:
    error = (
        layer.error if masks.fine is None else np.where(masks.fine, layer.fine_error, layer.error)
    )
    return np.where(masks.mask, 0, error).sum(axis=(2, 3), dtype=np.float64)


def test_the_mix_is_a_mix_and_better_than_exact_blocks_alone():
    layer = random_layer(3)
    (mixed,) = select_mixes([layer], FORCED, 0.3, TOKENS, BLOCK_K, Allocation.LAYER)
    (coarse,) = select_mixes(
        [layer._replace(fine_error=None)], FORCED, 0.3, TOKENS, BLOCK_K, Allocation.LAYER
    )
    assert coarse.fine is None
    assert mixed.fine is not None
    assert left_out(layer, mixed).sum() < 0.95 * left_out(layer, coarse).sum()
    assert mixed.predicted_error == pytest.approx(np.sqrt(left_out(layer, mixed) / layer.energy))
    assert mixed.density == pytest.approx(mixed.mask.mean(axis=(2, 3)))


def test_no_mix_within_the_budget_is_better_by_more_than_one_step():
    """The greedy choice on the hull is optimal at its own cost; a budget between two steps may
    leave less than one block unspent."""
    rng = np.random.default_rng(4)
    error = rng.uniform(0, 1, (1, 4)).astype(np.float32)
    fine_error = (error * rng.uniform(0, 1, (1, 4))).astype(np.float32)
    none = np.zeros((1, 4), bool)
    for budget in range(4, 4 * BLOCK_K + 1, 3):
        found = best_mix(BlockErrors(error, fine_error, none, BLOCK_K), budget)
        assert found.keys(BLOCK_K) <= budget
        spent, mine = found.keys(BLOCK_K), error_of(found, error, fine_error)
        for kinds in itertools.product(range(3), repeat=4):
            exact, fine = np.array([kinds]) == 2, np.array([kinds]) == 1
            other = BlockMix(exact, fine)
            if other.keys(BLOCK_K) <= spent:
                assert error_of(other, error, fine_error) >= mine - 1e-6


def error_of(mix: BlockMix, error, fine_error) -> float:
    return float(np.where(mix.exact, 0, np.where(mix.fine, fine_error, error)).sum())


def test_blocks_near_the_price_follow_their_neighbours():
    """Smooth errors and noise: the choice is in larger pieces, and loses almost nothing."""
    rng = np.random.default_rng(8)
    row, column = np.mgrid[:48, :64] / 6
    smooth = np.exp(np.sin(row) + np.sin(column))[None]
    error = (smooth * rng.lognormal(0, 0.3, (2, 48, 64))).astype(np.float32)
    fine_error = (error * rng.uniform(0.1, 0.9, error.shape)).astype(np.float32)
    none = np.zeros((48, 64), bool)
    budget = error.size * BLOCK_K // 4
    best, found = (
        choose(BlockErrors(error, fine_error, none, BLOCK_K), budget)
        for choose in (best_mix, smooth_mix)
    )
    assert budget - BLOCK_K < found.keys(BLOCK_K) <= budget
    assert edges(found.exact) < 0.95 * edges(best.exact)
    assert edges(found.fine) < 0.95 * edges(best.fine)
    lost = [error_of(mix, error, fine_error) for mix in (best, found)]
    assert lost[0] <= lost[1] < 1.01 * lost[0]


def edges(plane) -> int:
    """Neighbouring blocks that differ."""
    return int(sum((np.diff(plane.astype(np.int8), axis=axis) != 0).sum() for axis in (1, 2)))


def test_neighbours_overrule_no_large_gain_and_no_forced_block():
    error = np.ones((1, 8, 8), np.float32)
    error[0, 4, 4] = 10.0
    forced = np.eye(8, dtype=bool)
    mix = smooth_mix(BlockErrors(error, error, forced, BLOCK_K), 64 + 9 * (BLOCK_K - 1))
    assert mix.exact[0].sum() == 9
    assert mix.exact[0, 4, 4]
    assert mix.exact[0][forced].all()


def test_equal_gains_go_to_the_lower_index():
    error = np.ones((2, 8), np.float32)
    none = np.zeros((2, 8), bool)
    mix = best_mix(BlockErrors(error, error, none, BLOCK_K), 16 + 5 * (BLOCK_K - 1) + 10)
    assert mix.exact.ravel().tolist() == [True] * 5 + [False] * 11
    assert not mix.fine.any()


def test_blocks_that_lose_nothing_may_still_fill_the_budget():
    error = np.zeros((2, 8), np.float32)
    mix = best_mix(BlockErrors(error, error, np.zeros((2, 8), bool), BLOCK_K), 10_000)
    assert mix.exact.all()


def test_forced_blocks_survive_a_budget_too_small_for_them():
    (chosen,) = select_mixes([random_layer(5)], FORCED, 0.02, TOKENS, BLOCK_K, Allocation.LAYER)
    assert np.array_equal(chosen.mask, np.broadcast_to(FORCED, SHAPE))
    assert chosen.fine is None


def test_model_allocation_feeds_the_layer_that_loses_more():
    layers = [random_layer(6, loudness=0.1), random_layer(7, loudness=10)]
    quiet, loud = select_mixes(layers, FORCED, 0.3, TOKENS, BLOCK_K, Allocation.MODEL)
    assert keys(loud) > 1.2 * keys(quiet)
