"""Which schedule bin, and so which block mask, each sample of a batch uses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import ArgumentError
from ..plan.limits import MAX_TIMESTEP


def mask_bins(timestep: ArrayLike, bin_boundaries: Sequence[float]) -> NDArray[np.int32]:
    """Bin of each timestep: `ParoPlan.bin_of` for a batch.

    Args:
        timestep: [B], 0..1000, 1000 being pure noise.
        bin_boundaries: T-1 strictly descending timesteps; bin 0, the noisiest, has the timesteps
            at or above the first.

    Returns:
        int32 [B], 0..T-1.

    Raises:
        ArgumentError: a timestep is not finite or not in the schedule.
    """
    timesteps = np.asarray(timestep, dtype=np.float64)
    # One unit of room, as `ParoPlan.bin_of` gives.
    outside = timesteps[~((timesteps >= 0.0) & (timesteps <= MAX_TIMESTEP + 1.0))]
    if outside.size:
        raise ArgumentError(
            "timestep",
            expected=f"numbers in [0, {MAX_TIMESTEP:g}], {MAX_TIMESTEP:g} being pure noise",
            actual=str(outside.flat[0]),
        )
    below = timesteps[..., None] < np.asarray(bin_boundaries, dtype=np.float64)
    return np.asarray(below.sum(axis=-1), dtype=np.int32)
