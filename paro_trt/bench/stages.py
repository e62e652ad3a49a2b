"""Times of the op's two stages, by the device that computes them."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .case import OpCase

STAGES = {
    "kernels::reorder_quantize::": 1,
    "kernels::summaries::": 2,
    "kernels::routing::": 2,
    "kernels::smoothing::": 2,
    "kernels::sparse_attention::": 2,
}
"""Namespaces of kernels -> stage of the op. What version 2 computes between the stages counts with
the second."""


def stage_seconds(run: Callable[[int], object], calls: int = 3) -> tuple[float, float]:
    """Seconds a call of stage 1 and stage 2 on a GPU: their kernels' times, as CUPTI records them.

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


def least_stage1_bytes(case: OpCase, bits: int) -> float:
    """K and V read once in 16 bits, and written once with a scale a block; where dropped blocks are
    pooled, a summary token of each block as well."""
    tokens, blocks = case.tokens, -(-case.tokens // case.config.block_k)
    summaries = blocks if case.config.pool_dropped else 0
    scales = 0 if bits == 16 else 2 * 4 * case.heads * blocks
    row = 2 * case.heads * case.head_dim
    return row * (2 * tokens + (tokens + summaries) * bits / 8) + scales
