"""Which layers come near the largest float16: what turns videos black or NaN in half precision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

HEADROOM = 4.0
"""A layer is reported when its activations come within this factor of float16's maximum: prompts
that were not calibrated on go further than those that were."""

_NAMED = 8
"""Layers that a note names."""


@contextmanager
def recorded_peaks(model: torch.nn.Module, peaks: dict[str, Tensor]) -> Iterator[None]:
    """Within the context `peaks` collects the largest |output| of every layer of `model`.

    A layer is a module without children. Costs one pass over each activation; the peaks stay on
    the activations' device, so that a GPU is not waited for.
    """

    def record(name: str) -> Any:
        def hook(_module: torch.nn.Module, _inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and output.is_floating_point() and output.numel():
                peak = output.detach().abs().amax()
                before = peaks.get(name)
                # maximum passes NaN on.
                peaks[name] = peak if before is None else torch.maximum(before.to(peak), peak)

        return hook

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if next(module.children(), None) is None:
                stack.callback(module.register_forward_hook(record(name)).remove)
        yield


def peak_arrays(peaks: Mapping[str, Tensor]) -> dict[str, NDArray[np.float64]]:
    """Peaks as arrays, which combine by the maximum."""
    return {f"peak.{name}": np.array([float(peak)]) for name, peak in peaks.items()}


def overflow_notes(states: Iterator[Mapping[str, NDArray[Any]]]) -> list[str]:
    """One note that names the layers near float16's maximum, the worst first; none if all is well.

    Args:
        states: arrays of `peak_arrays`, one set a run.
    """
    limit = float(np.finfo(np.float16).max)
    worst: dict[str, float] = {}
    for state in states:
        for key, value in state.items():
            if key.startswith("peak."):
                name = key.removeprefix("peak.")
                worst[name] = _larger(worst.get(name, 0.0), float(value[0]))
    near = {name: peak for name, peak in worst.items() if not peak * HEADROOM < limit}
    if not near:
        return []
    named = sorted(near, key=lambda name: -near[name])[:_NAMED]
    listed = ", ".join(f"{name} {near[name]:.4g}" for name in named)
    more = f" and {len(near) - len(named)} more" if len(near) > len(named) else ""
    return [
        f"{len(near)} layers come within {HEADROOM:g}x of float16's maximum {limit:g}; export in "
        f"bfloat16 or float32: {listed}{more}"
    ]


def _larger(one: float, other: float) -> float:
    """The larger of two, NaN if either is: Python's max would hide it."""
    return float(np.maximum(one, other))
