"""Values of a session's inputs and outputs that no sound call has: refused, or warned of."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentError
from ..onnx_file.info import ExportInfo
from ..plan import mask_bins

_TIMESTEP, _MASK_BIN = "timestep", "mask_bin"

_SHOWN = 8
"""Values that a message lists at most."""


class TimestepUnitWarning(UserWarning):
    """Timesteps that suggest another unit than the model's."""


class NonFiniteWarning(UserWarning):
    """An output has NaN or infinity."""


def check_values(info: ExportInfo, inputs: Mapping[str, NDArray[Any]]) -> None:
    """Judge timesteps and mask bins by their values; dtypes and shapes were checked.

    A batch whose timesteps are all in (0, 1] is computed, with a `TimestepUnitWarning`: a schedule
    may end there, but more likely the caller counts from 0 to 1.

    Raises:
        ArgumentError: a timestep is not in 0..1000, or a mask bin is none of the file's. The op
            itself would clamp the bin.
    """
    timesteps = inputs.get(_TIMESTEP)
    if timesteps is not None:
        mask_bins(timesteps, ())
        if timesteps.size and 0 < timesteps.max() <= 1:
            warnings.warn(
                f"{_TIMESTEP}: {_listed(timesteps)} is almost no noise: an exported model counts "
                "from 0 to 1000, also where the diffusers transformer takes timestep / 1000 (Flux, "
                "Qwen-Image)",
                TimestepUnitWarning,
                stacklevel=3,
            )
    bins = inputs.get(_MASK_BIN)
    if bins is None:
        return
    count = len(info.bin_boundaries or ()) + 1
    unknown = bins[(bins < 0) | (bins >= count)]
    if unknown.size:
        raise ArgumentError(
            _MASK_BIN,
            expected=f"0 to {count - 1}, as the file has {count}" if count > 1 else "0, the only",
            actual=_listed(unknown),
            remedy="paro_trt.plan.mask_bins gives the bins of timesteps",
        )


def not_finite(arrays: Mapping[str, NDArray[Any]]) -> dict[str, str]:
    """What is NaN or infinite, in words, by the name of the array; nothing where all is finite."""
    found = {}
    for name, array in arrays.items():
        if array.dtype.kind in "biu":
            continue
        nan = int(np.isnan(array).sum())
        infinite = array.size - nan - int(np.isfinite(array).sum())
        if nan or infinite:
            found[name] = f"{nan} NaN and {infinite} infinite of {array.size} numbers"
    return found


def warn_of_output(outputs: Mapping[str, NDArray[Any]]) -> None:
    """A `NonFiniteWarning` for each output that has NaN or infinity."""
    for name, what in not_finite(outputs).items():
        warnings.warn(f"output {name}: {what}", NonFiniteWarning, stacklevel=3)


def _listed(values: NDArray[Any]) -> str:
    some = ", ".join(f"{float(value):g}" for value in values.ravel()[:_SHOWN])
    return some + (", ..." if values.size > _SHOWN else "")
