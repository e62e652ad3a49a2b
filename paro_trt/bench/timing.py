"""The project's timer: contenders take turns, so that drift affects all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch

from ..errors import ArgumentError

Run = Callable[[int], object]
"""Queues or makes the call with this number; the number chooses the buffers."""

STEADY_SPREAD = 0.05
"""A larger spread means a disturbed timing: more rounds run, and the row is marked."""

MOST_CALLS = 50


@dataclass(frozen=True)
class Timing:
    """Seconds a call of one contender: every round, in order.

    processor_seconds: what the process's threads computed meanwhile. Other programs change it less
    than the elapsed time. Empty where the clock does not measure it, as on a GPU.
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


class Elapsed(NamedTuple):
    """Seconds a call; processor_seconds is None where the clock does not measure it."""

    seconds: float
    processor_seconds: float | None = None


class Clock(Protocol):
    """Times calls on one kind of device."""

    def time(self, run: Run, calls: int, first: int) -> Elapsed:
        """Mean of `calls` calls, which have the numbers from `first` on."""


class HostClock:
    """For calls that have finished when they return, as on a CPU."""

    def time(self, run: Run, calls: int, first: int) -> Elapsed:
        """See `Clock`."""
        start, processor_start = time.perf_counter(), time.process_time()
        for call in range(first, first + calls):
            run(call)
        passed, computed = time.perf_counter() - start, time.process_time() - processor_start
        return Elapsed(passed / calls, computed / calls)


class EventClock:
    """The GPU's own time between two events on torch's current stream."""

    def time(self, run: Run, calls: int, first: int) -> Elapsed:
        """See `Clock`."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for call in range(first, first + calls):
            run(call)
        end.record()
        end.synchronize()
        return Elapsed(start.elapsed_time(end) * 1e-3 / calls)


@dataclass(frozen=True)
class Rounds:
    """How many rounds to time, and how long one turn of a contender is.

    Args:
        wanted: rounds to run.
        most: rounds continue up to here while a spread is above STEADY_SPREAD; None for no more
            than `wanted`.
        turn_seconds: a turn makes as many calls as fit; 0 for one call. On a GPU the queueing of
            the calls hides behind their work.
        fewest: rounds that run even after the deadline.
        deadline: value of `now` after which no further round starts; None for no deadline.
        now: the clock of the deadline.
    """

    wanted: int = 7
    most: int | None = None
    turn_seconds: float = 0.0
    fewest: int = 3
    deadline: float | None = None
    now: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        if self.wanted < 1:
            raise ArgumentError("rounds", expected="at least 1", actual=str(self.wanted))


def time_in_turns(runs: Mapping[str, Run], clock: Clock, rounds: Rounds) -> dict[str, Timing]:
    """Warm up, then time all runs in turns. Each round starts with another one."""
    calls = {name: _calls_a_turn(run, clock, rounds.turn_seconds) for name, run in runs.items()}
    names = list(runs)
    laps: dict[str, list[Elapsed]] = {name: [] for name in names}
    for index in range(max(rounds.wanted, rounds.most or 0)):
        settled = index >= rounds.wanted and all(_timing(name, laps[name]).steady for name in names)
        late = rounds.deadline is not None and rounds.now() >= rounds.deadline
        if settled or (index >= rounds.fewest and late):
            break
        for turn in range(len(names)):
            name = names[(index + turn) % len(names)]
            laps[name].append(clock.time(runs[name], calls[name], index * calls[name]))
    return {name: _timing(name, laps[name]) for name in names}


def _calls_a_turn(run: Run, clock: Clock, turn_seconds: float) -> int:
    clock.time(run, 1, 0)
    if turn_seconds == 0:
        return 1
    once = clock.time(run, 2, 1).seconds
    return min(MOST_CALLS, max(1, round(turn_seconds / once)))


def _timing(name: str, laps: Sequence[Elapsed]) -> Timing:
    processor = tuple(lap.processor_seconds for lap in laps if lap.processor_seconds is not None)
    return Timing(name, tuple(lap.seconds for lap in laps), processor)


def speedup(baseline: Timing, timing: Timing) -> float:
    """Median over the rounds of baseline / timing: both sides of a ratio ran in one round."""
    return _median_ratio(baseline.seconds, timing.seconds)


def processor_speedup(baseline: Timing, timing: Timing) -> float | None:
    """The same of processor time, the better measure on a shared machine; None without it."""
    if not (baseline.processor_seconds and timing.processor_seconds):
        return None
    return _median_ratio(baseline.processor_seconds, timing.processor_seconds)


def median_difference(more: Timing, less: Timing) -> float:
    """Median over the rounds of the seconds that one timing takes more than another."""
    return statistics.median(a - b for a, b in zip(more.seconds, less.seconds, strict=True))


def _median_ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))
