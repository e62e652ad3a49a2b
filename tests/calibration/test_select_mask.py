import math
from fractions import Fraction

import numpy as np
import pytest

from paro_trt.calibration.select_mask import (
    SHARED_BUDGETS,
    Allocation,
    LayerScores,
    MaskMetric,
    MaskTarget,
    block_budget,
    forced_blocks,
    select_masks,
)
from paro_trt.calibration.statistics import Tiling
from paro_trt.errors import ArgumentError
from paro_trt.plan import TextLayout, TextPosition

SHAPE = (2, 3, 6, 12)
TOKENS, TILING = 6 * 16, Tiling(16, 8)


def random_layer(seed: int, loudness: float = 1.0) -> LayerScores:
    rng = np.random.default_rng(seed)
    mass = rng.gamma(0.3, size=SHAPE) + 1e-6
    mass /= mass.sum(axis=(2, 3), keepdims=True)
    error = rng.gamma(0.3, size=SHAPE) * loudness
    return LayerScores(
        error.astype(np.float32), mass.astype(np.float32), rng.uniform(0.5, 2, SHAPE[:2])
    )


def forced() -> np.ndarray:
    return forced_blocks(TOKENS, TextLayout(), TILING)


@pytest.mark.parametrize("allocation", SHARED_BUDGETS)
@pytest.mark.parametrize("metric", list(MaskMetric))
@pytest.mark.parametrize("density", [0.2, 0.3, 0.71, 1.0])
def test_density_is_met_exactly_and_no_row_is_empty(allocation, metric, density):
    layers = [random_layer(1), random_layer(2, loudness=5)]
    chosen = select_masks(layers, forced(), MaskTarget(density=density), metric, allocation)
    budget_size = {
        Allocation.MODEL: 2 * math.prod(SHAPE),
        Allocation.LAYER: math.prod(SHAPE),
        Allocation.HEAD: math.prod(SHAPE[2:]),
    }[allocation]
    share = math.floor(Fraction(str(density)) * budget_size) * (2 * math.prod(SHAPE) // budget_size)
    assert sum(int(layer.mask.sum()) for layer in chosen) == share
    for layer in chosen:
        assert layer.mask.any(axis=-1).all()
        assert layer.mask[..., forced()].all()


def test_the_budget_of_a_decimal_density_is_exact():
    assert block_budget(0.29, 100) == 29
    sizes = [*range(1, 130), 1000, 4096, 99_999, 480 * 960 * 40, 2 * 40 * 40 * 512 * 1024]
    for digits in (1, 2, 3):
        for numerator in range(1, 10**digits + 1):
            decimal = f"{numerator / 10**digits:.{digits}f}"
            exact = Fraction(decimal)
            for blocks in sizes:
                assert block_budget(float(decimal), blocks) == exact * blocks // 1


def test_the_budget_of_a_ratio_is_the_integer_it_means():
    for blocks in range(1, 200):
        for kept in range(1, blocks + 1):
            assert block_budget(kept / blocks, blocks) == kept


def test_no_other_mask_of_the_budget_leaves_less_out():
    layer = random_layer(3)
    (chosen,) = select_masks(
        [layer], forced(), MaskTarget(density=0.4), MaskMetric.OUTPUT_ERROR, Allocation.LAYER
    )
    free = np.broadcast_to(~forced(), SHAPE)
    kept, left = layer.error[chosen.mask & free], layer.error[~chosen.mask]
    assert kept.min() >= left.max()


def test_metric_decides_the_ranking():
    layer = random_layer(4)
    target = MaskTarget(density=0.4)
    by_error, by_mass = (
        select_masks([layer], forced(), target, metric, Allocation.LAYER)[0]
        for metric in (MaskMetric.OUTPUT_ERROR, MaskMetric.MASS)
    )
    assert by_error.predicted_error.sum() < by_mass.predicted_error.sum()
    assert by_error.mass.sum() < by_mass.mass.sum()


def test_model_allocation_feeds_the_layer_that_loses_more():
    quiet, loud = random_layer(5, loudness=0.1), random_layer(6, loudness=10)
    arguments = ([quiet, loud], forced(), MaskTarget(density=0.3), MaskMetric.OUTPUT_ERROR)
    shared = select_masks(*arguments, Allocation.MODEL)
    assert shared[1].density.mean() > 1.5 * shared[0].density.mean()
    apart = select_masks(*arguments, Allocation.LAYER)
    assert apart[1].density.mean() == pytest.approx(apart[0].density.mean())


def test_equal_scores_go_to_the_lower_index():
    layer = random_layer(7)
    flat = layer._replace(error=np.ones(SHAPE, np.float32))
    first, again = (
        select_masks(
            [flat], forced(), MaskTarget(density=0.5), MaskMetric.OUTPUT_ERROR, Allocation.HEAD
        )[0].mask
        for _ in range(2)
    )
    assert np.array_equal(first, again)
    assert (first.sum(axis=(2, 3)) == first[0, 0].size // 2).all()
    free = first[0, 0][~forced()]
    assert free[: free.sum()].all()


def test_density_one_leaves_nothing_out():
    (chosen,) = select_masks(
        [random_layer(8)],
        forced(),
        MaskTarget(density=1.0),
        MaskMetric.OUTPUT_ERROR,
        Allocation.LAYER,
    )
    assert (chosen.predicted_error == 0).all()
    np.testing.assert_allclose(chosen.mass, 1, atol=1e-6)
    assert (chosen.density == 1).all()


def test_predicted_error_is_the_left_out_share_of_the_heads_energy():
    layer = random_layer(9)
    (chosen,) = select_masks(
        [layer], forced(), MaskTarget(density=0.4), MaskMetric.MASS, Allocation.LAYER
    )
    left = layer.error[1, 2][~chosen.mask[1, 2]].sum()
    assert chosen.predicted_error[1, 2] == pytest.approx(math.sqrt(left / layer.energy[1, 2]))


def test_forced_blocks_survive_a_budget_too_small_for_them():
    (chosen,) = select_masks(
        [random_layer(10)],
        forced(),
        MaskTarget(density=0.01),
        MaskMetric.OUTPUT_ERROR,
        Allocation.LAYER,
    )
    assert np.array_equal(chosen.mask, np.broadcast_to(forced(), SHAPE))


@pytest.mark.parametrize("wanted", [0.3, 0.8, 0.999])
def test_mass_target_is_reached_with_the_fewest_blocks(wanted):
    layer = random_layer(11)
    none = np.zeros_like(forced())
    none[:, 0] = True
    (chosen,) = select_masks(
        [layer], none, MaskTarget(mass=wanted), MaskMetric.OUTPUT_ERROR, Allocation.LAYER
    )
    assert (chosen.mass >= wanted - 1e-6).all()
    for head_mask, head_mass in zip(
        chosen.mask.reshape(-1, 6, 12), layer.mass.reshape(-1, 6, 12), strict=True
    ):
        least_free = head_mass[head_mask & ~none].min(initial=np.inf)
        if np.isfinite(least_free):
            assert head_mass[head_mask].sum() - least_free < wanted


def test_forced_blocks_are_the_diagonal_and_the_text():
    tiling = Tiling(16, 8)
    plain = forced_blocks(50, TextLayout(), tiling)
    expected = np.zeros((4, 7), bool)
    for query_block, key_blocks in enumerate(([0, 1], [2, 3], [4, 5], [6])):
        expected[query_block, key_blocks] = True
    assert np.array_equal(plain, expected)
    first = forced_blocks(50, TextLayout(9, TextPosition.FIRST), tiling)
    assert first[:, :2].all()
    assert np.array_equal(first[:, 2:], expected[:, 2:])
    last = forced_blocks(50, TextLayout(9, TextPosition.LAST), tiling)
    assert last[:, 5:].all()
    assert np.array_equal(last[:, :5], expected[:, :5])


def test_text_that_ends_with_a_block_forces_no_block_more():
    tiling = Tiling(16, 8)
    plain = forced_blocks(50, TextLayout(), tiling)
    first = forced_blocks(50, TextLayout(8, TextPosition.FIRST), tiling)
    assert np.array_equal(first[:, 1:], plain[:, 1:])
    last = forced_blocks(50, TextLayout(10, TextPosition.LAST), tiling)
    assert np.array_equal(last[:, :5], plain[:, :5])


def test_a_query_block_smaller_than_a_key_block_keeps_the_one_around_it():
    forced_small = forced_blocks(256, TextLayout(), Tiling(64, 128))
    assert np.array_equal(forced_small, np.repeat(np.eye(2, dtype=bool), 2, axis=0))


@pytest.mark.parametrize(
    ("target", "subject"),
    [
        ((None, None), "density, mass"),
        ((0.3, 0.9), "density, mass"),
        ((0.0, None), "density"),
        ((None, 1.2), "mass"),
        ((-1, None), "density"),
        ((float("nan"), None), "density"),
    ],
)
def test_bad_targets_are_refused(target, subject):
    with pytest.raises(ArgumentError, match=f"^{subject}: expected"):
        MaskTarget(*target).check()
