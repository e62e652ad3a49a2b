"""Timing on a GPU: contenders take turns, each turn between two events on the stream.

The project's timer (paro_trt/bench/timing.py) reads a host clock around one call; here a turn is
several calls that queue without waiting, on buffers that rotate past the L2 cache.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from paro_trt.bench.timing import Timing

TURN_SECONDS = 3e-3
MOST_CALLS = 50
FEWEST_ROUNDS, ROUNDS, MOST_ROUNDS = 3, 7, 21


class Clock(Protocol):
    """Times calls that queue work."""

    def time(self, run: Callable[[int], object], calls: int, first: int) -> float:
        """Seconds a call, of `calls` calls with the numbers from `first` on."""


class EventClock:
    """The GPU's own time, of torch's current stream."""

    def time(self, run: Callable[[int], object], calls: int, first: int) -> float:
        """See `Clock`."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for call in range(first, first + calls):
            run(call)
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e-3 / calls


class HostClock:
    """For devices that compute while they are called."""

    def time(self, run: Callable[[int], object], calls: int, first: int) -> float:
        """See `Clock`."""
        start = time.perf_counter()
        for call in range(first, first + calls):
            run(call)
        return (time.perf_counter() - start) / calls


@dataclass(frozen=True)
class Turn:
    """A contender: `run(i)` queues its i-th call, on buffers that it chooses by i."""

    name: str
    run: Callable[[int], object]


def time_in_turns(
    turns: Sequence[Turn], clock: Clock, now: Callable[[], float], deadline: float
) -> dict[str, Timing]:
    """Every contender's rounds: 7, and up to 21 while a spread is above 5 %.

    Rounds end early at the deadline, after three. Each round starts with another contender.
    """
    calls = {turn.name: _calls_a_turn(turn, clock) for turn in turns}
    seconds: dict[str, list[float]] = {turn.name: [] for turn in turns}
    for index in range(MOST_ROUNDS):
        timings = {name: Timing(name, tuple(values)) for name, values in seconds.items()}
        settled = index >= ROUNDS and all(timing.steady for timing in timings.values())
        if settled or (index >= FEWEST_ROUNDS and now() >= deadline):
            return timings
        for offset in range(len(turns)):
            turn = turns[(index + offset) % len(turns)]
            count = calls[turn.name]
            seconds[turn.name].append(clock.time(turn.run, count, index * count))
    return {name: Timing(name, tuple(values)) for name, values in seconds.items()}


def _calls_a_turn(turn: Turn, clock: Clock) -> int:
    """Warms up; enough calls that their queueing hides behind the work."""
    clock.time(turn.run, 1, 0)
    once = clock.time(turn.run, 2, 1)
    return min(MOST_CALLS, max(1, round(TURN_SECONDS / once)))


STAGES = {"kernels::reorder_quantize::": 1, "kernels::sparse_attention::": 2}
"""Namespaces of kernels -> stage of the op."""


def stage_seconds(run: Callable[[int], object], calls: int = 3) -> tuple[float, float]:
    """Seconds a call of stage 1 and stage 2: their kernels' times, as CUPTI records them.

    Raises:
        ValueError: there is no kernel of a stage, or one of no stage.
    """
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for call in range(calls):
            run(call)
        torch.cuda.synchronize()
    micros = {event.key: event.self_device_time_total for event in profile.key_averages()}
    first, second = split_by_stage(micros)
    return first * 1e-6 / calls, second * 1e-6 / calls


def split_by_stage(times: dict[str, float]) -> tuple[float, float]:
    """Sums of both stages over the library's kernels by name."""
    sums = {1: 0.0, 2: 0.0}
    for name, spent in times.items():
        if "paro::" in name and spent > 0:
            sums[_stage_of(name)] += spent
    if not all(sums.values()):
        raise ValueError(f"expected kernels of both stages, the profiler recorded {sorted(times)}")
    return sums[1], sums[2]


def _stage_of(kernel: str) -> int:
    # Template arguments may name the other stage too: the function's own namespace comes first.
    places = {kernel.find(space): stage for space, stage in STAGES.items() if space in kernel}
    if not places:
        raise ValueError(f"kernel of no stage: {kernel}")
    return places[min(places)]
