"""The timer: turns, rounds and ratios."""

from __future__ import annotations

import itertools
import time

import pytest

from paro_trt.bench.timing import (
    Elapsed,
    HostClock,
    Rounds,
    Timing,
    median_difference,
    processor_speedup,
    speedup,
    time_in_turns,
)
from paro_trt.errors import ArgumentError


class Counted:
    """A clock whose time is what the run returns."""

    def time(self, run, calls, first):
        return Elapsed(sum(run(index) for index in range(first, first + calls)) / calls)


def test_contenders_take_turns_and_start_in_turn():
    calls: list[str] = []
    runs = {name: lambda _, name=name: calls.append(name) for name in "abc"}
    timings = time_in_turns(runs, HostClock(), Rounds(2))
    assert "".join(calls) == "abc" + "abc" + "bca"
    assert [len(timing.seconds) for timing in timings.values()] == [2, 2, 2]
    assert [len(timing.processor_seconds) for timing in timings.values()] == [2, 2, 2]


def test_no_rounds_are_refused():
    with pytest.raises(ArgumentError, match="rounds"):
        Rounds(0)


def test_ratios_and_differences_pair_the_rounds():
    slow, fast = Timing("slow", (4.0, 40.0, 8.0)), Timing("fast", (1.0, 10.0, 1.0))
    assert speedup(slow, fast) == 4.0
    assert processor_speedup(slow, fast) is None
    assert median_difference(Timing("a", (3.0, 9.0, 4.0)), Timing("b", (1.0, 2.0, 3.0))) == 2.0
    assert Timing("x", (1.0, 2.0, 3.0)).median == 2.0


def test_processor_time_excludes_waiting():
    """It also excludes the time that other programs take."""

    def compute(_: int) -> None:
        end = time.process_time() + 0.02
        while time.process_time() < end:
            pass

    def compute_and_wait(_: int) -> None:
        compute(0)
        time.sleep(0.1)

    runs = {"waits": compute_and_wait, "computes": compute}
    timings = time_in_turns(runs, HostClock(), Rounds(3))
    assert min(timings["waits"].seconds) > 0.12
    assert processor_speedup(timings["waits"], timings["computes"]) == pytest.approx(1.0, abs=0.3)


@pytest.mark.parametrize(("most", "expected"), [(None, 4), (9, 9), (3, 4)])
def test_rounds_continue_while_spreads_are_wide(most, expected):
    durations = itertools.cycle([1.0, 10.0])
    timing = time_in_turns({"x": lambda _: next(durations)}, Counted(), Rounds(4, most))["x"]
    assert len(timing.seconds) == expected
    assert not timing.steady


def test_rounds_end_when_all_are_steady_or_at_the_deadline():
    noise = itertools.cycle([1.0, 2.0])
    steady = {"steady": lambda _: 1e-3}
    both = {**steady, "noisy": lambda _: next(noise)}

    def rounds(runs, now, **options):
        limits = Rounds(7, 21, deadline=1.0, now=lambda: now, **options)
        timings = time_in_turns(runs, Counted(), limits)
        return {name: len(timing.seconds) for name, timing in timings.items()}

    assert rounds(steady, 0.0) == {"steady": 7}
    assert rounds(both, 0.0, turn_seconds=3e-3) == {"steady": 21, "noisy": 21}
    assert rounds(both, 2.0) == {"steady": 3, "noisy": 3}


def test_a_turn_has_as_many_calls_as_fit_in_its_time():
    seen: list[int] = []
    run = lambda index: seen.append(index) or 1e-3  # noqa: E731
    time_in_turns({"x": run}, Counted(), Rounds(2, turn_seconds=3e-3))
    assert seen == [0, 1, 2, 0, 1, 2, 3, 4, 5]
