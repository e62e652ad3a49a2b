"""The attention benchmark: the native CPU backend against dense and block-sparse baselines.

All contenders of a shape run in one process, verified first, then timed in turns.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..native import library_path, load_library
from ..op.spec import AttentionConfig
from .contenders import BLOCK_K, BLOCK_Q, Entry, Workload, make_entries
from .problem import OpCase, random_inputs
from .timing import Contender, Timing, processor_speedup, speedup, time_interleaved

MOST_ROUNDS_FACTOR = 3
"""How many times the rounds asked for may run until spreads settle."""


@dataclass(frozen=True)
class Measurement:
    """One contender at one density.

    spread: half the interquartile range over the median. steady: whether that is at most 5 %.
    speedup: of the median round, against the baseline of the same round; processor_speedup: the
    same of processor time, which other programs change less. gflops: of the blocks executed,
    4 * D * block_q * block_k each. peak_share: gflops over the FP32 multiply-add rate of the same
    threads, measured after the rounds; integer and bfloat16 products may exceed it. stage1_share:
    of this time; None but for PARO.
    """

    tokens: int
    head_dim: int
    heads: int
    threads: int
    contender: str
    density: float
    milliseconds: float
    spread: float
    steady: bool
    speedup: float
    processor_speedup: float
    gflops: float
    peak_share: float
    stage1_share: float | None


def measure(
    workload: Workload,
    *,
    rounds: int = 7,
    flex: bool = True,
    onnxruntime: bool = True,
    on_step: Callable[[str], None] = lambda _: None,
) -> list[Measurement]:
    """Verify and time everything of one workload.

    Args:
        rounds: at least; up to three times as many run while spreads are above 5 %.
        flex: include torch's FlexAttention, compiled, with the same block masks.
        onnxruntime: include ONNX Runtime's MultiHeadAttention.
        on_step: told what is being done.

    Raises:
        ParoError: a contender's output is wrong; nothing is timed then.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(workload.threads)
    try:
        entries = make_entries(workload, flex=flex, onnxruntime=onnxruntime)
        for entry in entries:
            on_step(f"verifying {entry.name} at density {entry.density:g}")
            entry.verify(entry.run())
        on_step("timing")
        timings = time_interleaved(
            _contenders(entries), rounds=rounds, most_rounds=MOST_ROUNDS_FACTOR * rounds
        )
    finally:
        torch.set_num_threads(before)
    peak_gflops = load_library(library_path("cpu")).measure_peak(workload.threads) / 1e9
    baseline = timings[entries[0].key]
    return [_measurement(workload, entry, timings, baseline, peak_gflops) for entry in entries]


def kernels_here() -> str:
    """Which kernels of the CPU backend this processor gets, in the library's words."""
    case = OpCase("any", BLOCK_Q, config=AttentionConfig(BLOCK_Q, BLOCK_K))
    description = load_library(library_path("cpu")).describe(random_inputs(case, 0), case.config)
    return description.split(" on ")[0]


def _contenders(entries: list[Entry]) -> list[Contender]:
    contenders = [Contender(entry.key, entry.run) for entry in entries]
    # Stage 1 is the same at every density: timed once for each name.
    stage1 = {entry.name: entry.stage1 for entry in entries if entry.stage1}
    for name, calls in stage1.items():
        contenders.append(Contender(_nothing_listed(name), calls.nothing_listed))
        contenders.append(Contender(_no_tokens(name), calls.no_tokens))
    return contenders


def _nothing_listed(name: str) -> str:
    return f"{name}, nothing listed"


def _no_tokens(name: str) -> str:
    return f"{name}, no tokens"


def _stage1_seconds(name: str, timings: dict[str, Timing]) -> float | None:
    """Median over the rounds of the difference that stage 1 makes."""
    if _nothing_listed(name) not in timings:
        return None
    with_stage1, without = timings[_nothing_listed(name)].seconds, timings[_no_tokens(name)].seconds
    return statistics.median(a - b for a, b in zip(with_stage1, without, strict=True))


def _measurement(
    workload: Workload,
    entry: Entry,
    timings: dict[str, Timing],
    baseline: Timing,
    peak_gflops: float,
) -> Measurement:
    timing = timings[entry.key]
    dense_flops = 4 * workload.tokens**2 * workload.head_dim * workload.heads
    gflops = entry.density * dense_flops / timing.median / 1e9
    stage1 = _stage1_seconds(entry.name, timings)
    return Measurement(
        workload.tokens,
        workload.head_dim,
        workload.heads,
        workload.threads,
        entry.name,
        entry.density,
        timing.median * 1e3,
        timing.spread,
        timing.steady,
        speedup(baseline, timing),
        processor_speedup(baseline, timing),
        gflops,
        gflops / peak_gflops,
        None if stage1 is None else stage1 / timing.median,
    )
