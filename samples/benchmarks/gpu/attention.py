"""The attention benchmark on a GPU: verified, then timed in turns, most important shapes first.

    python -m samples.benchmarks.gpu.attention OUT_DIR --seconds 200

Reads rates.csv in OUT_DIR, if it is there, for ceilings. Writes attention.csv, a row a contender
as soon as its group is through, and rounds.csv, every timing of every round. Exit status 1 where
one of our kernels gave a wrong result or failed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from paro_trt.bench.case import OpCase
from paro_trt.bench.contenders import ours
from paro_trt.bench.measure import Bench, Group, Peaks, identity, measure_group
from paro_trt.bench.problem import make_problem
from paro_trt.bench.results import Files, Row
from paro_trt.bench.stages import stage_seconds
from paro_trt.bench.timing import EventClock, HostClock, Rounds, Timing, time_in_turns
from paro_trt.errors import ParoError
from paro_trt.op.native import library_path, load_library
from paro_trt.op.spec import AttentionConfig

from .rates import RATES_FILE, read_rates
from .shapes import BLOCK_Q, plan
from .targets import HOST_CALL

MATRIX = 8192
HOST_CALLS = 100
GROUP_SHARE = 0.25
"""Share of the time left that one group's rounds may take beyond its first three."""

TURN_SECONDS = 3e-3
MOST_ROUNDS = 21


def run(
    bench: Bench,
    groups: Sequence[Group],
    seconds: float,
    files: Files,
    now: Callable[[], float] = time.monotonic,
) -> int:
    """Measure groups while there is time for the next; how many are through.

    Raises:
        ParoError: in any group; those before are written.
    """
    start = now()
    longest = 0.0
    for done, group in enumerate(groups):
        left = start + seconds - now()
        # A group that may not end in time does not begin, unless it is the first: its rows would
        # be lost.
        if done and left < longest:
            return done
        began = now()
        rounds = Rounds(
            most=MOST_ROUNDS, turn_seconds=TURN_SECONDS, deadline=began + GROUP_SHARE * left,
            now=now,
        )  # fmt: skip
        rows, timings = measure_group(bench, group, rounds)
        files.add(rows, timings)
        if bench.device.type == "cuda":
            torch.cuda.empty_cache()
        longest = max(longest, now() - began)
        print(f"{now() - start:6.1f} s  {group.case.name}: {len(rows)} rows", flush=True)
    return len(groups)


def host_time(bench: Bench) -> Row:
    """The time a call keeps its caller, launches included, on inputs of one tile."""
    case = OpCase(
        "one call", BLOCK_Q, heads=1, kv_heads=1, dtype=torch.bfloat16,
        config=AttentionConfig(BLOCK_Q, 64),
    )  # fmt: skip
    problem = make_problem(case, bench.device)
    call = next(ours(problem, bench.library, 8, 1.0, bench.threads)).run
    # Fewer than a stream's queue holds: a full one would make the caller wait.
    samples = []
    for _ in range(9):
        samples.append(HostClock().time(call, HOST_CALLS, 0).seconds)
        if bench.device.type == "cuda":
            torch.cuda.synchronize()
    median = Timing(HOST_CALL, tuple(samples[1:])).median
    return Row(*identity(case), HOST_CALL, ms=median * 1e3, note="launches included")


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
    return Bench(
        device, library, EventClock(), lambda: peaks, cache_bytes=cache, stages=stage_seconds
    )


def _matrix_rate(device: torch.device) -> float:
    """Operations a second of torch's bfloat16 product of two large random matrices."""
    one, other = (torch.randn(MATRIX, MATRIX, device=device).bfloat16() for _ in range(2))
    rounds = Rounds(wanted=3, turn_seconds=TURN_SECONDS)
    timing = time_in_turns({"product": lambda _: one @ other}, EventClock(), rounds)["product"]
    return 2.0 * MATRIX**3 / timing.median


def main(arguments: Sequence[str]) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="attention", description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, required=True)
    given = parser.parse_args(arguments)
    groups = plan()
    files = Files(given.out)
    try:
        bench = gpu_bench(read_rates(given.out / RATES_FILE))
        files.add([host_time(bench)])
        done = run(bench, groups, given.seconds, files)
    except ParoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{done} of {len(groups)} groups measured")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
