"""One interface over every way of executing an exported model, and the checks they share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentError
from ..onnx_file.info import SessionInfo

Arrays: TypeAlias = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a session.

    Args:
        name: as in the file.
        dtype: NumPy's name of the element type.
        shape: sizes; a string is a free size, equal wherever the same string stands.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.dtype} [{', '.join(map(str, self.shape))}]"


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
    def info(self) -> SessionInfo:
        """What the file says of the model it was made from."""

    @abstractmethod
    def close(self) -> None:
        """Release what the session holds; it cannot run afterwards. Harmless when repeated."""

    @abstractmethod
    def _execute(self, inputs: Arrays) -> Arrays:
        """Run on inputs that were checked and are contiguous."""

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Outputs by name.

        Raises:
            ArgumentError: an input is missing, unknown, or of another dtype or shape than
                `inputs` says; nothing was run.
        """
        return self._execute(check_inputs(self.inputs, inputs))

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
    names = [spec.name for spec in specs]
    for kind, wrong in (
        ("missing", [name for name in names if name not in inputs]),
        ("unknown", [name for name in inputs if name not in names]),
    ):
        if wrong:
            raise ArgumentError(
                "inputs", expected=", ".join(names), actual=f"{', '.join(wrong)} {kind}"
            )
    sizes: dict[str, int] = {}
    return {spec.name: _check_input(spec, inputs[spec.name], sizes) for spec in specs}


def _check_input(spec: TensorSpec, value: object, sizes: dict[str, int]) -> NDArray[Any]:
    """One input; `sizes` collects the free sizes met so far."""
    if not isinstance(value, np.ndarray):
        raise ArgumentError(spec.name, expected=f"an array {spec}", actual=type(value).__name__)
    fits = value.dtype == spec.dtype and value.ndim == len(spec.shape) and value.size > 0
    if fits:
        for size, expected in zip(value.shape, spec.shape, strict=True):
            wanted = sizes.setdefault(expected, size) if isinstance(expected, str) else expected
            fits = fits and size == wanted
    if not fits:
        known = ", ".join(f"{name} = {size}" for name, size in sizes.items())
        raise ArgumentError(
            spec.name,
            expected=f"{spec}, not empty" + (f", with {known}" if known else ""),
            actual=f"{value.dtype} {list(value.shape)}",
        )
    return np.ascontiguousarray(value)
