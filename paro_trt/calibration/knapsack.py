"""One option for each item, of least error within a time or of least time within an error.

Options are reduced to fronts: those that no other one beats in both time and error. Fronts of
items are added one by one, as Nemhauser and Ullmann do; a front of more points than `limit` is
thinned, so that the result is exact for small problems and close for large ones. Times are never
rounded: what is found keeps its budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentError

FRONT_LIMIT = 4096
"""Points that a front may have: 40 layers of 60 options take a second or two."""

_SLACK = 1e-12
"""Of a budget: sums of the same numbers in another order."""


class Front(NamedTuple):
    """Options by rising time and falling error.

    time, error: f64 [N]. choice: int32 [N, items], the option of each item.
    """

    time: NDArray[np.float64]
    error: NDArray[np.float64]
    choice: NDArray[np.int32]


def front(time: NDArray[np.float64], error: NDArray[np.float64]) -> Front:
    """The front of one item's options.

    Args:
        time: f64 [N].
        error: f64 [N].
    """
    return _reduced(time, error, np.arange(len(time), dtype=np.int32)[:, None])


def add(first: Front, second: Front, limit: int = FRONT_LIMIT) -> Front:
    """The front of one option of each: times and errors add."""
    time = (first.time[:, None] + second.time).ravel()
    error = (first.error[:, None] + second.error).ravel()
    kept = _best(time, error, limit)
    of_first, of_second = np.divmod(kept, len(second.time))
    choice = np.concatenate((first.choice[of_first], second.choice[of_second]), axis=1)
    return Front(time[kept], error[kept], choice)


def merge(fronts: Sequence[Front], limit: int = FRONT_LIMIT) -> Front:
    """The front of the options of all: one of them is taken. The first item of each choice becomes
    the index of the front, before its own."""
    marked = [
        np.insert(of.choice, 0, index, axis=1).astype(np.int32) for index, of in enumerate(fronts)
    ]
    time = np.concatenate([of.time for of in fronts])
    error = np.concatenate([of.error for of in fronts])
    return _reduced(time, error, np.concatenate(marked), limit)


def total(fronts: Sequence[Front], limit: int = FRONT_LIMIT) -> Front:
    """The front of one option of each item."""
    whole = fronts[0]
    for each in fronts[1:]:
        whole = add(whole, each, limit)
    return whole


def within_time(whole: Front, budget: float) -> int:
    """The point of least error whose time is at most the budget.

    Raises:
        ArgumentError: even the fastest takes longer.
    """
    fitting = int(np.searchsorted(whole.time, budget * (1 + _SLACK), side="right"))
    if not fitting:
        raise ArgumentError(
            "time", expected=f"at least {whole.time[0]:g}, the fastest choice", actual=f"{budget:g}"
        )
    return fitting - 1


def within_error(whole: Front, budget: float) -> int:
    """The point of least time whose error is at most the budget.

    Raises:
        ArgumentError: even the most exact has a larger error.
    """
    fitting = np.flatnonzero(whole.error <= budget * (1 + _SLACK))
    if not len(fitting):
        raise ArgumentError(
            "error",
            expected=f"at least {whole.error[-1]:g}, the most exact choice",
            actual=f"{budget:g}",
        )
    return int(fitting[0])


def _reduced(
    time: NDArray[np.float64],
    error: NDArray[np.float64],
    choice: NDArray[np.int32],
    limit: int = FRONT_LIMIT,
) -> Front:
    kept = _best(time, error, limit)
    return Front(time[kept], error[kept], choice[kept])


def _best(time: NDArray[np.float64], error: NDArray[np.float64], limit: int) -> NDArray[np.int64]:
    """Indices of the points that none beats, by time; the lower index wins a tie."""
    by_time = np.lexsort((error, time))
    falling = np.minimum.accumulate(error[by_time])
    better = np.concatenate(([True], error[by_time][1:] < falling[:-1]))
    kept = by_time[better]
    if len(kept) <= limit:
        return kept
    # The last of every stretch of time, so that both ends and an even spread stay.
    places = (time[kept] - time[kept[0]]) / (time[kept[-1]] - time[kept[0]]) * (limit - 2)
    stretch = np.ceil(places).astype(np.int64)
    last = np.concatenate((stretch[1:] != stretch[:-1], [True]))
    return np.asarray(kept[last])
