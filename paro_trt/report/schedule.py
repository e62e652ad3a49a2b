"""The denoising schedule and its bins."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ..plan import ParoPlan
from ..plan.limits import MAX_TIMESTEP


@dataclass(frozen=True)
class ScheduleBin:
    """One interval of the schedule; timesteps in the model's units, 1000 being pure noise.

    Args:
        number: of the bin, from 0.
        high: where it begins.
        low: where it ends; the last ends at 0.
        density: mean over heads of attended blocks / all blocks.
        mass: mean over heads of the attention kept.
        predicted_error: mean over heads of the relative L2 error.
    """

    number: int
    high: float
    low: float
    density: float
    mass: float
    predicted_error: float

    @property
    def start(self) -> float:
        """Share of the schedule that is done when the bin begins."""
        return 1.0 - self.high / MAX_TIMESTEP

    @property
    def width(self) -> float:
        """Share of the schedule that the bin covers."""
        return (self.high - self.low) / MAX_TIMESTEP

    @property
    def title(self) -> str:
        """Number and timesteps."""
        return f"bin {self.number}: {_timestep(self.high)} to {_timestep(self.low)}"


def schedule_bins(plan: ParoPlan) -> tuple[ScheduleBin, ...]:
    """The bins of a plan, from pure noise on."""
    heads = [head for layer in plan.layers for head in layer.heads]
    density, mass, error = (
        np.array([getattr(head, figure) for head in heads]).mean(axis=0)
        for figure in ("density", "mass", "predicted_error")
    )
    edges = (MAX_TIMESTEP, *plan.bin_boundaries, 0.0)
    return tuple(
        ScheduleBin(i, high, low, float(density[i]), float(mass[i]), float(error[i]))
        for i, (high, low) in enumerate(pairwise(edges))
    )


def _timestep(value: float) -> str:
    return f"{value:.0f}" if value == round(value) else f"{value:.1f}"
