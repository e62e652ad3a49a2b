"""The attention benchmark on a GPU: verified, then timed in turns, most important shapes first.

    python -m gpu.attention OUT_DIR --seconds 200

Reads rates.csv in OUT_DIR, if it is there, for ceilings. Writes attention.csv, a row a contender
as soon as its group is through, and rounds.csv, every timing of every round. Exit status 1 where
one of our kernels gave a wrong result or failed.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from paro_trt.bench.timing import Timing, speedup
from paro_trt.errors import ParoError
from paro_trt.native import NativeLibrary, library_path, load_library

from .contenders import Contender, LeftOut, dense_baselines, ours, peers
from .problem import Problem, make_problem
from .results import HOST_CALL, RATES_FILE, Files, Row, read_rates
from .shapes import Group, Shape, plan
from .timing import Clock, EventClock, HostClock, Turn, stage_seconds, time_in_turns

MATRIX = 8192
HOST_CALLS = 100
GROUP_SHARE = 0.25
"""Of the time left, what one group's rounds may take beyond its first three."""


@dataclass(frozen=True)
class Peaks:
    """Measured ceilings: operations a second by bits, and bytes a second of a copy (or 0)."""

    by_bits: dict[int, float]
    copy: float


@dataclass(frozen=True)
class Bench:
    """Where and with what to measure. threads: of a CPU backend."""

    device: torch.device
    library: NativeLibrary
    clock: Clock
    peaks: Peaks
    cache_bytes: int
    threads: int = 0
    now: Callable[[], float] = time.monotonic
    stages: Callable[[Callable[[int], object]], tuple[float, float]] | None = None


class WrongResultError(Exception):
    """One of our kernels gave a wrong result or failed; nothing of its group was timed."""


def measure_group(bench: Bench, group: Group, deadline: float) -> tuple[list[Row], list[Timing]]:
    """Rows of a group, and the timings behind them.

    Raises:
        WrongResultError: see there.
    """
    problem = make_problem(
        group.shape, group.block_k, bench.device, torch.bfloat16, bench.cache_bytes, seed=0
    )
    tried = [
        each if isinstance(each, LeftOut) else _verified(each)
        for each in _contenders(bench, group, problem)
    ]
    left_out = [each for each in tried if isinstance(each, LeftOut)]
    taking_part = [each for each in tried if not isinstance(each, LeftOut)]
    turns = [Turn(contender.key, contender.run) for contender, _ in taking_part]
    timings = time_in_turns(turns, bench.clock, bench.now, deadline)
    dense = [c for c, _ in taking_part if c.name.startswith("SDPA")]
    best = min(dense, key=lambda c: timings[c.key].median, default=None)
    rows = [_row(bench, group, problem, c, error, timings, best) for c, error in taking_part]
    rows += [Row(*_identity(group), each.name, note=each.reason) for each in left_out]
    return rows, list(timings.values())


def _contenders(bench: Bench, group: Group, problem: Problem) -> Iterator[Contender | LeftOut]:
    yield from dense_baselines(problem)
    for bits, density in itertools.product(group.bits, group.densities):
        try:
            yield from ours(problem, bench.library, bits, density, bench.threads)
        except ParoError as error:
            raise WrongResultError(f"{group.name}: {error}") from error
    if group.peers:
        for density in group.densities:
            yield from peers(problem, density)


def _verified(contender: Contender) -> tuple[Contender, float] | LeftOut:
    """The contender and its error; a wrong baseline is left out, a wrong kernel of ours ends it."""
    error = contender.check(contender.run(0))
    if error <= contender.largest_error:
        return contender, error
    said = f"relative error {error:.2e}, expected at most {contender.largest_error:g}"
    if contender.is_ours:
        raise WrongResultError(f"{contender.key}: {said}")
    return LeftOut(contender.name, said)


def _row(
    bench: Bench,
    group: Group,
    problem: Problem,
    contender: Contender,
    error: float,
    timings: dict[str, Timing],
    best: Contender | None,
) -> Row:
    timing = timings[contender.key]
    share = problem.reached_density(contender.density) if contender.density < 1 else 1.0
    rate = share * group.shape.dense_operations() / timing.median
    stages = _stages(bench, group, contender) if contender.is_ours else {}
    return Row(
        *_identity(group),
        contender.name,
        contender.kernel,
        contender.bits,
        group.block_k if contender.is_ours else None,
        contender.density,
        ms=timing.median * 1e3,
        spread=timing.spread,
        rounds=len(timing.seconds),
        tops=rate / 1e12,
        peak_share=rate / bench.peaks.by_bits[contender.bits],
        speedup=None if best is None else speedup(timings[best.key], timing),
        baseline="" if best is None else best.name,
        relative_error=error,
        **stages,
    )


def _stages(bench: Bench, group: Group, contender: Contender) -> dict[str, float | str | None]:
    """Times of both stages; where the profiler fails, the note says why."""
    if bench.stages is None:
        return {}
    try:
        first, second = bench.stages(contender.run)
    except (RuntimeError, ValueError) as error:
        return {"note": f"no times of stages: {error}"[:300]}
    copied = least_stage1_bytes(group, contender.bits) / first
    return {
        "stage1_ms": first * 1e3,
        "stage2_ms": second * 1e3,
        "stage1_share": first / (first + second),
        "stage1_copy_share": copied / bench.peaks.copy if bench.peaks.copy else None,
    }


def least_stage1_bytes(group: Group, bits: int) -> float:
    """K and V read once in 16 bits, and written once with a scale a block."""
    shape = group.shape
    elements = 2 * shape.tokens * shape.heads * shape.head_dim
    scales = 0 if bits == 16 else 2 * 4 * shape.heads * -(-shape.tokens // group.block_k)
    return elements * (2 + bits / 8) + scales


def _identity(group: Group) -> tuple[str, int, int, int]:
    return group.name, *_sizes(group.shape)


def _sizes(shape: Shape) -> tuple[int, int, int]:
    return shape.tokens, shape.heads, shape.head_dim


def run(bench: Bench, groups: Sequence[Group], seconds: float, files: Files) -> int:
    """Measure groups while there is time for the next; how many are through.

    Raises:
        WrongResultError: in any group; those before are written.
    """
    start = bench.now()
    longest = 0.0
    for done, group in enumerate(groups):
        left = start + seconds - bench.now()
        # A group that may not end in time is not begun, unless none was: its rows would be lost.
        if done and left < longest:
            return done
        began = bench.now()
        rows, timings = measure_group(bench, group, began + GROUP_SHARE * left)
        files.add(rows, timings)
        if bench.device.type == "cuda":
            torch.cuda.empty_cache()
        longest = max(longest, bench.now() - began)
        print(f"{bench.now() - start:6.1f} s  {group.name}: {len(rows)} rows", flush=True)
    return len(groups)


def host_time(bench: Bench) -> Row:
    """The time a call keeps its caller, launches included, on inputs of one tile."""
    shape = Shape((1, 8, 16), 0, 1, 64, "one tile")
    problem = make_problem(shape, 64, bench.device, torch.bfloat16, 0, seed=0)
    call = next(ours(problem, bench.library, 8, 1.0, bench.threads)).run
    # Fewer than a stream's queue holds: a full one would make the caller wait.
    samples = []
    for _ in range(9):
        samples.append(HostClock().time(call, HOST_CALLS, 0))
        if bench.device.type == "cuda":
            torch.cuda.synchronize()
    median = Timing(HOST_CALL, tuple(samples[1:])).median
    return Row("one call", *_sizes(shape), HOST_CALL, ms=median * 1e3, note="launches included")


def gpu_bench(rates: dict[str, dict[str, float]]) -> Bench:
    """This machine's first GPU; rates by name as rates.cu writes them."""
    device = torch.device("cuda", 0)
    library = load_library(library_path("attention"))
    # Of 8-bit products, what the chip does at best: wgmma's where it has them.
    wgmma = [columns["rate"] for name, columns in rates.items() if "wgmma" in name]
    integer = max(library.measure_peak(0), *wgmma, 0.0)
    copy = rates.get("device memory, copy", {"rate": 0.0})["rate"]
    peaks = Peaks({16: _matrix_rate(device), 8: integer}, copy)
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    return Bench(device, library, EventClock(), peaks, cache, stages=stage_seconds)


def _matrix_rate(device: torch.device) -> float:
    """Operations a second of torch's bfloat16 product of two large random matrices."""
    one, other = (torch.randn(MATRIX, MATRIX, device=device).bfloat16() for _ in range(2))
    turn = Turn("matrix product", lambda _: one @ other)
    timing = time_in_turns([turn], EventClock(), time.monotonic, 0.0)["matrix product"]
    return 2.0 * MATRIX**3 / timing.median


def main(arguments: Sequence[str]) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="gpu.attention", description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, required=True)
    given = parser.parse_args(arguments)
    groups = plan()
    files = Files(given.out)
    try:
        bench = gpu_bench(read_rates(given.out / RATES_FILE))
        files.add([host_time(bench)])
        done = run(bench, groups, given.seconds, files)
    except (WrongResultError, ParoError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{done} of {len(groups)} groups measured")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
