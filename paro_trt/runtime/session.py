"""One interface over every way of executing an exported model, and the checks they share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentError
from ..onnx_file.info import ExportInfo
from ..onnx_file.tensors import TensorSpec, check_names, check_tensor
from .values import check_values, warn_of_output

Arrays: TypeAlias = dict[str, NDArray[Any]]


class Session(ABC):
    """A loaded model that runs on NumPy arrays. Use as a context manager, or call `close`."""

    @property
    @abstractmethod
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What `run` takes, all of it."""

    @property
    @abstractmethod
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What `run` returns."""

    @property
    @abstractmethod
    def info(self) -> ExportInfo:
        """What the file says of the model it was made from."""

    @abstractmethod
    def close(self) -> None:
        """Release what the session holds; it cannot run afterwards. Harmless when repeated."""

    @abstractmethod
    def _execute(self, inputs: Arrays) -> Arrays:
        """Run on inputs that were checked and are contiguous."""

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Outputs by name.

        Timesteps that are all at most 1 are a `TimestepUnitWarning`, outputs with NaN or infinity a
        `NonFiniteWarning`.

        Raises:
            ArgumentError: an input is missing, unknown, or of another dtype or shape than
                `inputs` says; a timestep is outside 0..1000, or a mask bin is not in the file.
                Nothing was run.
        """
        arrays = check_inputs(self.inputs, inputs)
        check_values(self.info, arrays)
        outputs = self._execute(arrays)
        warn_of_output(outputs)
        return outputs

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def check_inputs(specs: Sequence[TensorSpec], inputs: Mapping[str, NDArray[Any]]) -> Arrays:
    """The inputs as contiguous arrays; ArgumentError if they are not what `specs` says."""
    check_names("inputs", specs, inputs)
    sizes: dict[str, int] = {}
    arrays = {}
    for spec in specs:
        value = inputs[spec.name]
        if not isinstance(value, np.ndarray):
            raise ArgumentError(spec.name, expected=f"an array {spec}", actual=type(value).__name__)
        shown = f"{value.dtype} {list(value.shape)}"
        check_tensor(spec, str(value.dtype), value.shape, sizes, shown)
        arrays[spec.name] = np.ascontiguousarray(value)
    return arrays
