"""The bins of a denoising schedule: intervals of timesteps, each with its own block masks.

Timesteps are in the model's units, 1000 being pure noise. T - 1 descending boundaries divide the
schedule into T bins; bin 0, the noisiest, has the timesteps at or above the first boundary.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..documents import shown
from ..errors import ArgumentError, PlanError
from . import checks
from .limits import MAX_BINS, MAX_TIMESTEP


def mask_bins(timestep: ArrayLike, bin_boundaries: Sequence[float]) -> NDArray[np.int32]:
    """The bin, and so the block mask, that serves each timestep.

    Args:
        timestep: timesteps of any shape, in [0, 1000].
        bin_boundaries: T - 1 strictly descending timesteps.

    Returns:
        int32 of the shape of `timestep`, each in 0..T-1.

    Raises:
        ArgumentError: a timestep is not finite or not in the schedule.
    """
    timesteps = np.asarray(timestep, dtype=np.float64)
    # Some schedulers compute in float32 and end slightly past 1000; one unit is allowed for that.
    outside = timesteps[~((timesteps >= 0.0) & (timesteps <= MAX_TIMESTEP + 1.0))]
    if outside.size:
        raise ArgumentError(
            "timestep",
            expected=f"numbers in [0, {MAX_TIMESTEP:g}], {MAX_TIMESTEP:g} being pure noise",
            actual=str(outside.flat[0]),
        )
    below = timesteps[..., None] < np.asarray(bin_boundaries, dtype=np.float64)
    return np.asarray(below.sum(axis=-1), dtype=np.int32)


def check_bin_boundaries(value: object) -> tuple[float, ...]:
    """Return `value` as a tuple of T - 1 strictly descending timesteps within (0, 1000).

    Raises:
        PlanError: it is anything else.
    """
    subject = "bin_boundaries"
    boundaries = checks.items(subject, value)
    checks.integer(f"{subject} length", len(boundaries), 0, MAX_BINS - 1)
    result = tuple(checks.number(subject, item) for item in boundaries)
    edges = (MAX_TIMESTEP, *result, 0.0)
    if any(high <= low for high, low in pairwise(edges)):
        raise PlanError(
            subject,
            expected=f"strictly descending timesteps within (0, {MAX_TIMESTEP:g})",
            actual=shown(list(result)),
        )
    return result
