"""The attention benchmark of one group: contenders are verified first, then timed in turns."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import ArgumentError, ParoError
from ..op.native import NativeLibrary, library_path, load_library
from .baselines import dense_baselines, flex_attention, sage_attention
from .case import OpCase
from .contenders import SMOOTHED_BITS, Contender, LeftOut, ours
from .problem import Problem, make_problem
from .results import Row
from .stages import least_stage1_bytes
from .timing import (
    Clock,
    HostClock,
    Rounds,
    Run,
    Timing,
    median_difference,
    processor_speedup,
    speedup,
    time_in_turns,
)

CPU_PRECISIONS = (
    (torch.float32, 16),
    (torch.bfloat16, 16),
    (torch.float32, 8),
    (torch.float32, SMOOTHED_BITS),
)


@dataclass(frozen=True)
class Group:
    """What is timed in turns: dense baselines, and the library at these precisions and densities.

    Args:
        case: shape, type and block sizes.
        precisions: types of the library's inputs, and bits as `ours` takes them.
        densities: of the library's masks.
        token_order: int32 [R,S] for the library; None leaves the tokens in place.
        flex: whether FlexAttention takes part, with the same masks.
        sage: whether SageAttention takes part.
    """

    case: OpCase
    precisions: tuple[tuple[torch.dtype, int], ...]
    densities: tuple[float, ...]
    token_order: Callable[[], Tensor] | None = None
    flex: bool = False
    sage: bool = False


@dataclass(frozen=True)
class Peaks:
    """Measured ceilings: operations a second by bits, and bytes a second of a copy (or 0)."""

    by_bits: dict[int, float]
    copy: float = 0.0


@dataclass(frozen=True)
class Bench:
    """Where and with what to measure.

    Args:
        device: of the tensors.
        library: a backend for the device.
        clock: of the device.
        peaks: called after the rounds of each group.
        cache_bytes: size of the cache that inputs rotate past.
        threads: of a CPU backend, torch and ONNX Runtime; 0 on a GPU.
        stages: seconds of both stages of a contender of ours; None on a CPU, where stage 1 is what
            two calls differ by.
    """

    device: torch.device
    library: NativeLibrary
    clock: Clock
    peaks: Callable[[], Peaks]
    cache_bytes: int = 0
    threads: int = 0
    stages: Callable[[Run], tuple[float, float]] | None = None


class WrongResultError(ParoError):
    """The library or the only baseline gave a wrong result; nothing of its group was timed."""


def cpu_bench(threads: int) -> Bench:
    """This machine's CPU."""
    library = load_library(library_path("cpu"))

    def peaks() -> Peaks:
        return Peaks(dict.fromkeys((4, 8, 16), library.measure_peak(threads)))

    return Bench(torch.device("cpu"), library, HostClock(), peaks, threads=threads)


def measure_group(
    bench: Bench,
    group: Group,
    rounds: Rounds,
    on_step: Callable[[str], None] = lambda _: None,
) -> tuple[list[Row], list[Timing]]:
    """Rows of a group, and the timings behind them.

    Args:
        bench: where and with what.
        group: what.
        rounds: how often.
        on_step: called with what is being done.

    Raises:
        WrongResultError: see there.
        ParoError: the library failed.
    """
    with _torch_threads(bench.threads):
        order = None if group.token_order is None else group.token_order()
        problem = make_problem(
            group.case, bench.device, token_order=order, cache_bytes=bench.cache_bytes
        )
        errors: dict[Contender, float] = {}
        left_out: list[LeftOut] = []
        wrong_baseline: WrongResultError | None = None
        for each in contenders(bench, group, problem):
            if isinstance(each, LeftOut):
                left_out.append(each)
                continue
            on_step(f"verifying {each.key}")
            error = each.check(each.run(0))
            if error <= each.largest_error:
                errors[each] = error
            elif each.is_ours:
                raise _wrong(each.key, error, each.largest_error)
            else:
                refusal = _wrong(each.key, error, each.largest_error)
                left_out.append(LeftOut(each.name, str(refusal)))
                if each.is_baseline:
                    wrong_baseline = refusal
        if wrong_baseline and not any(each.is_baseline for each in errors):
            raise wrong_baseline
        on_step("timing")
        timings = time_in_turns(runs_of(list(errors)), bench.clock, rounds)
    peaks = bench.peaks()
    baselines = [each for each in errors if each.is_baseline]
    baseline = min(baselines, key=lambda each: timings[each.key].median, default=None)
    rows = [
        _row(bench, group, problem, each, error, timings, baseline, peaks)
        for each, error in errors.items()
    ]
    rows += [Row(*identity(group.case), each.name, note=each.reason) for each in left_out]
    return rows, list(timings.values())


def contenders(bench: Bench, group: Group, problem: Problem) -> Iterator[Contender | LeftOut]:
    """All contenders of a group; baselines come first."""
    yield from dense_baselines(problem, bench.threads)
    for (dtype, bits), density in itertools.product(group.precisions, group.densities):
        yield from ours(problem.as_dtype(dtype), bench.library, bits, density, bench.threads)
    if group.flex:
        for density in group.densities:
            yield flex_attention(problem, density)
    if group.sage:
        yield sage_attention(problem)


def identity(case: OpCase) -> tuple[str, int, int, int]:
    """The first columns of a row."""
    return case.name, case.tokens, case.heads, case.head_dim


def _wrong(key: str, error: float, largest: float) -> WrongResultError:
    return WrongResultError(
        key,
        expected=f"relative L2 error at most {largest:g} against the float64 reference",
        actual=f"{error:.2e}",
        remedy="nothing of this group was timed",
    )


def runs_of(contenders: Sequence[Contender]) -> dict[str, Run]:
    """What is timed, by the name of its timing: each contender, and stage 1 of each precision.

    Raises:
        ArgumentError: two contenders have the same key, so that one would hide the other.
    """
    runs: dict[str, Run] = {}
    for each in contenders:
        if each.key in runs:
            raise ArgumentError(
                "contenders",
                expected="one of each name, precision and density",
                actual=f"two named {each.key}",
                remedy="name each precision and density once",
            )
        runs[each.key] = each.run
    for each in contenders:
        if each.stage1 is not None:
            nothing_listed, no_tokens = _stage1_keys(each)
            # Stage 1 is the same at every density: it is timed once for each precision.
            runs.setdefault(nothing_listed, each.stage1.nothing_listed)
            runs.setdefault(no_tokens, each.stage1.no_tokens)
    return runs


def _stage1_keys(contender: Contender) -> tuple[str, str]:
    name = contender.key.partition(" @ ")[0]
    return f"{name}, nothing listed", f"{name}, no tokens"


def _row(
    bench: Bench,
    group: Group,
    problem: Problem,
    contender: Contender,
    error: float,
    timings: dict[str, Timing],
    baseline: Contender | None,
    peaks: Peaks,
) -> Row:
    timing, case = timings[contender.key], group.case
    share = problem.reached_density(contender.density)
    rate = share * 4.0 * case.tokens**2 * case.head_dim * case.heads / timing.median
    over = None if baseline is None else timings[baseline.key]
    return Row(
        *identity(case),
        contender.name,
        contender.kernel,
        contender.precision,
        bench.threads or None,
        case.config.block_k if contender.is_ours else None,
        contender.density,
        share,
        ms=timing.median * 1e3,
        spread=timing.spread,
        rounds=len(timing.seconds),
        tops=rate / 1e12,
        peak_share=rate / peaks.by_bits[contender.bits],
        speedup=None if over is None else speedup(over, timing),
        processor_speedup=None if over is None else processor_speedup(over, timing),
        baseline="" if baseline is None else baseline.name,
        relative_error=error,
        **_stage_columns(bench, group, contender, timings, peaks),
    )


def _stage_columns(
    bench: Bench, group: Group, contender: Contender, timings: dict[str, Timing], peaks: Peaks
) -> dict[str, Any]:
    """Times of both stages; where the profiler fails, the note says why."""
    if not contender.is_ours:
        return {}
    if bench.stages is not None:
        try:
            first, second = bench.stages(contender.run)
        except (RuntimeError, ValueError) as error:
            return {"note": f"no times of stages: {error}"[:300]}
    elif contender.stage1 is not None:
        more, less = _stage1_keys(contender)
        first = median_difference(timings[more], timings[less])
        second = timings[contender.key].median - first
    else:
        return {}
    copied = least_stage1_bytes(group.case, contender.bits) / first
    return {
        "stage1_ms": first * 1e3,
        "stage2_ms": second * 1e3,
        "stage1_share": first / (first + second),
        "stage1_copy_share": copied / peaks.copy if peaks.copy else None,
    }


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
