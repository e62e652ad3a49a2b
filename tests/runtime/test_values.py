"""Values that a session refuses or warns of, whatever executes it."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from paro_trt.errors import ArgumentError
from paro_trt.onnx_file.info import ExportInfo
from paro_trt.onnx_file.tensors import TensorSpec
from paro_trt.plan import Grid, ModelIdentity
from paro_trt.runtime.session import Session
from paro_trt.runtime.values import NonFiniteWarning, TimestepUnitWarning, not_finite


class Echo(Session):
    """Returns its first input."""

    def __init__(self, boundaries: tuple[float, ...] | None, dtype: str = "float32") -> None:
        self._boundaries = boundaries
        self._dtype = dtype
        self.runs = 0

    @property
    def inputs(self):
        bins = () if self._boundaries is None else (TensorSpec("mask_bin", "int32", ("B",)),)
        latents = TensorSpec("hidden_states", self._dtype, ("B", 3))
        return (latents, TensorSpec("timestep", "float32", ("B",)), *bins)

    @property
    def outputs(self):
        return (TensorSpec("sample", self._dtype, ("B", 3)),)

    @property
    def info(self):
        return ExportInfo(ModelIdentity("M", "0" * 64), Grid(1, 1, 1), None, self._boundaries)

    def close(self):
        pass

    def _execute(self, inputs):
        self.runs += 1
        return {"sample": inputs["hidden_states"]}


def call(session, timesteps, bins=None, value=1.0):
    count = len(timesteps)
    latents = np.full((count, 3), value, dtype=session.inputs[0].dtype)
    inputs = {"hidden_states": latents, "timestep": np.array(timesteps, np.float32)}
    if session.info.bin_boundaries is not None:
        inputs["mask_bin"] = np.array(bins or [0] * count, np.int32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return session.run(inputs)


def test_what_schedules_have_is_run_silently():
    session = Echo((750.0, 500.0))
    call(session, [1000.0, 1000.4, 0.0, 37.5], [0, 0, 2, 2])
    call(session, [0.0])
    call(session, [0.7, 250.0])
    call(Echo(None), [999.0])
    assert session.runs == 3


@pytest.mark.parametrize("timestep", [-0.5, 1002.0, 900000.0, np.inf, np.nan])
def test_timesteps_outside_the_schedule(timestep):
    session = Echo((500.0,))
    with pytest.raises(ArgumentError, match=r"timestep: expected numbers in \[0, 1000\]"):
        call(session, [500.0, timestep])
    assert session.runs == 0


@pytest.mark.parametrize(
    ("boundaries", "unknown", "expected"), [((500.0,), 2, "0 to 1"), ((), 1, "0, the only")]
)
def test_bins_that_the_file_has_not(boundaries, unknown, expected):
    session = Echo(boundaries)
    for value in (unknown, -1):
        with pytest.raises(ArgumentError, match=f"mask_bin: expected {expected}") as error:
            call(session, [900.0, 10.0], [0, value])
        assert error.value.actual == str(value)
    assert session.runs == 0


def test_timesteps_of_another_unit_are_warned_of():
    for timesteps in ([0.9], [1.0, 0.5, 0.0]):
        with pytest.raises(TimestepUnitWarning, match="0 to 1000"):
            call(Echo(None), timesteps)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_outputs_that_are_not_finite_are_warned_of(dtype):
    for value in (np.nan, -np.inf):
        with pytest.raises(NonFiniteWarning, match=r"output sample: .* of 6 numbers"):
            call(Echo(None, dtype), [900.0, 800.0], value=value)


def test_counts_of_what_is_not_finite():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    values = np.array([1.0, np.nan, np.inf, -np.inf], np.float32)
    expected = "1 NaN and 2 infinite of 4 numbers"
    brain = values.astype(ml_dtypes.bfloat16)
    arrays = {"a": values, "b": brain, "c": values[:1], "d": np.array([1]), "e": np.array([True])}
    assert not_finite(arrays) == {"a": expected, "b": expected}
