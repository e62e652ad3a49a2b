"""The knapsack against every combination of small random tables."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from paro_trt.calibration import knapsack
from paro_trt.errors import ArgumentError


def random_tables(seed):
    """Options of four items, some as fast or as exact as others."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 6, 4)
    return [(rng.integers(1, 9, n) / 8 + 0.3, rng.integers(0, 9, n) / 64) for n in sizes]


def combinations(tables):
    """(time, error) of every choice of one option each."""
    return [
        (sum(t[i] for (t, _), i in zip(tables, pick, strict=True)),
         sum(e[i] for (_, e), i in zip(tables, pick, strict=True)))
        for pick in product(*(range(len(t)) for t, _ in tables))
    ]  # fmt: skip


def of_point(tables, whole, point):
    """What the point's own choice takes and errs."""
    pick = whole.choice[point]
    return tuple(
        sum(table[part][i] for table, i in zip(tables, pick, strict=True)) for part in (0, 1)
    )


@pytest.mark.parametrize("seed", range(20))
def test_no_combination_is_better(seed):
    tables = random_tables(seed)
    every = combinations(tables)
    whole = knapsack.total([knapsack.front(*table) for table in tables])
    for budget in np.quantile([time for time, _ in every], (0, 0.2, 0.5, 0.9, 1)):
        time, error = of_point(tables, whole, knapsack.within_time(whole, budget))
        assert time <= budget + 1e-9
        assert error == pytest.approx(min(e for t, e in every if t <= budget + 1e-9))
    for budget in np.quantile([error for _, error in every], (0, 0.2, 0.5, 0.9, 1)):
        time, error = of_point(tables, whole, knapsack.within_error(whole, budget))
        assert error <= budget + 1e-9
        assert time == pytest.approx(min(t for t, e in every if e <= budget + 1e-9))


def test_merged_fronts_are_one_item_of_either_kind():
    slow, fast = (np.array([4.0]), np.array([0.1])), (np.array([2.0, 1.0]), np.array([0.2, 0.9]))
    merged = knapsack.merge([knapsack.front(*slow), knapsack.front(*fast)])
    assert merged.time.tolist() == [1.0, 2.0, 4.0]
    assert merged.choice.tolist() == [[1, 1], [1, 0], [0, 0]]


def test_a_thinned_front_keeps_its_ends_and_its_budgets():
    rng = np.random.default_rng(0)
    tables = [(np.sort(rng.random(40)), -np.sort(-rng.random(40))) for _ in range(6)]
    fronts = [knapsack.front(*table) for table in tables]
    exact, thin = knapsack.total(fronts, 100_000), knapsack.total(fronts, 200)
    assert len(thin.time) <= 200
    assert (thin.time[0], thin.time[-1]) == pytest.approx((exact.time[0], exact.time[-1]))
    for budget in np.linspace(exact.time[0], exact.time[-1], 9):
        point = knapsack.within_time(thin, budget)
        assert of_point(tables, thin, point)[0] <= budget + 1e-9
        best = exact.error[knapsack.within_time(exact, budget)]
        assert thin.error[point] <= best + 0.03 * exact.error[0]


def test_impossible_budgets_are_refused():
    whole = knapsack.front(np.array([1.0, 2.0]), np.array([0.5, 0.25]))
    with pytest.raises(ArgumentError, match=r"time: expected at least 1.* got 0\.9"):
        knapsack.within_time(whole, 0.9)
    with pytest.raises(ArgumentError, match=r"error: expected at least 0\.25.* got 0\.2"):
        knapsack.within_error(whole, 0.2)
