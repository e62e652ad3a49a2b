"""An exported model as the velocity that `denoise` integrates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..models.denoise import Velocity
from ..plan import mask_bins
from .session import Session

LATENTS, TIMESTEP, MASK_BIN, SAMPLE = "hidden_states", "timestep", "mask_bin", "sample"


def session_velocity(session: Session) -> Velocity:
    """velocity(latents, timestep, conditioning) computed by a session.

    Each sample's mask bin follows from its timestep by the file's own bin boundaries; tensors are
    cast to the file's dtypes, and the result is float32. What does not fit the file raises
    ArgumentError, as `Session.run` does.
    """
    dtypes = {spec.name: spec.dtype for spec in session.inputs}
    boundaries = session.info.bin_boundaries or ()

    def velocity(latents: Tensor, timestep: Tensor, conditioning: Mapping[str, Tensor]) -> Tensor:
        tensors = {LATENTS: latents, TIMESTEP: timestep, **conditioning}
        inputs: dict[str, NDArray[Any]] = {
            name: tensor.float().numpy().astype(dtypes.get(name, "float32"), copy=False)
            for name, tensor in tensors.items()
        }
        if MASK_BIN in dtypes:
            inputs[MASK_BIN] = mask_bins(timestep.numpy(), boundaries)
        sample = session.run(inputs)[SAMPLE]
        return torch.from_numpy(np.asarray(sample, dtype=np.float32))

    return velocity
