"""Where in the schedule velocities are compared."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from ..families.base import TIMESTEPS
from ..models.experts import Expert


def schedule_points(
    bin_boundaries: Sequence[float], expert: Expert | None = None
) -> tuple[float, ...]:
    """Two timesteps inside each bin, noisiest first; of an expert, in the part that it serves."""
    first, last = (float(TIMESTEPS), 0.0) if expert is None else expert.span
    edges = (first, *bin_boundaries, last)
    return tuple(
        high + part * (low - high)
        for high, low in itertools.pairwise(edges)
        for part in (0.25, 0.75)
    )
