"""The only timer of the project: contenders take turns, so that drift hits all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..errors import ArgumentError


@dataclass(frozen=True)
class Contender:
    """Something to time: a name and a call without arguments."""

    name: str
    run: Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Seconds of one contender: every round, in order.

    processor_seconds: what the process's threads computed meanwhile, which other programs change
    less than the time that passed; empty where that was not measured, as on a GPU.
    """

    name: str
    seconds: tuple[float, ...]
    processor_seconds: tuple[float, ...] = ()

    @property
    def median(self) -> float:
        """Median over the rounds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Half the interquartile range over the median."""
        if len(self.seconds) < 2:
            return 0.0
        quartiles = statistics.quantiles(self.seconds, n=4)
        return (quartiles[2] - quartiles[0]) / 2 / self.median

    @property
    def steady(self) -> bool:
        """Whether the spread is that of an undisturbed machine."""
        return self.spread <= STEADY_SPREAD


STEADY_SPREAD = 0.05
"""A timing with a larger spread was disturbed: it is repeated, and marked where that is no use."""


def time_interleaved(
    contenders: Sequence[Contender],
    *,
    rounds: int,
    most_rounds: int | None = None,
    warmup: int = 1,
    on_round: Callable[[], None] | None = None,
) -> dict[str, Timing]:
    """Time all contenders in turns, each round starting with another one.

    Args:
        rounds: how many at least.
        most_rounds: rounds go on up to here while a spread is above STEADY_SPREAD; None for
            `rounds` and no more.
        warmup: calls of each contender before.

    Raises:
        ArgumentError: no rounds, or two contenders of one name.
    """
    if rounds < 1:
        raise ArgumentError("rounds", expected="at least 1", actual=str(rounds))
    limit = rounds if most_rounds is None else max(rounds, most_rounds)
    names = [contender.name for contender in contenders]
    if len(set(names)) != len(names):
        raise ArgumentError("contenders", expected="unique names", actual=", ".join(names))
    for contender in contenders:
        for _ in range(warmup):
            contender.run()
    timings = {name: Timing(name, ()) for name in names}
    for round_index in range(limit):
        if round_index >= rounds and all(timing.steady for timing in timings.values()):
            break
        for turn in range(len(contenders)):
            contender = contenders[(round_index + turn) % len(contenders)]
            timings[contender.name] = _with_round(timings[contender.name], contender)
        if on_round is not None:
            on_round()
    return timings


def _with_round(timing: Timing, contender: Contender) -> Timing:
    start, processor_start = time.perf_counter(), time.process_time()
    contender.run()
    passed, computed = time.perf_counter() - start, time.process_time() - processor_start
    return Timing(timing.name, (*timing.seconds, passed), (*timing.processor_seconds, computed))


def speedup(baseline: Timing, timing: Timing) -> float:
    """Median over the rounds of baseline / timing: both sides of a ratio ran side by side."""
    return _median_ratio(baseline.seconds, timing.seconds)


def processor_speedup(baseline: Timing, timing: Timing) -> float:
    """The same of the processor's time, the measure to read on a machine that others use too."""
    return _median_ratio(baseline.processor_seconds, timing.processor_seconds)


def _median_ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))
