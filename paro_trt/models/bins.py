"""Which schedule bin, and so which block mask, a timestep falls into."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def mask_bins(timestep: ArrayLike, bin_boundaries: Sequence[float]) -> NDArray[np.int32]:
    """Bin of each timestep, as `ParoPlan.bin_of`.

    Args:
        timestep: [B], 0..1000, 1000 being pure noise.
        bin_boundaries: T-1 strictly descending timesteps; bin 0, the noisiest, has the timesteps
            at or above the first.

    Returns:
        int32 [B], 0..T-1.
    """
    boundaries = np.asarray(bin_boundaries, dtype=np.float64)
    below = np.asarray(timestep, dtype=np.float64)[..., None] < boundaries
    return np.asarray(below.sum(axis=-1), dtype=np.int32)
