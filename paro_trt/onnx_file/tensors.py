"""Inputs and outputs of a model, and the one check of what a caller passes for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from ..errors import ArgumentError


class TensorSpec(msgspec.Struct, frozen=True):
    """An input or output of a model.

    Args:
        name: as in the file.
        dtype: NumPy's name of the element type, or "bfloat16".
        shape: sizes; a string is a free size, equal wherever the same string is used.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def size_range(self, axis: int) -> tuple[int, int | None]:
        """The smallest and the largest size of an axis; None for no limit."""
        size = self.shape[axis]
        return (1, None) if isinstance(size, str) else (size, size)

    def __str__(self) -> str:
        shown = []
        for axis, size in enumerate(self.shape):
            low, high = self.size_range(axis)
            free = isinstance(size, str) and high is not None
            shown.append(f"{size}={low}..{high}" if free else str(size))
        return f"{self.dtype} [{', '.join(shown)}]"


def check_names(kind: str, specs: Sequence[TensorSpec], given: Mapping[str, Any]) -> None:
    """Raise ArgumentError unless the names of `given` are exactly those of `specs`."""
    names = [spec.name for spec in specs]
    for fault, wrong in (
        ("missing", [name for name in names if name not in given]),
        ("unknown", [name for name in given if name not in names]),
    ):
        if wrong:
            raise ArgumentError(
                kind, expected=", ".join(names), actual=f"{', '.join(map(str, wrong))} {fault}"
            )


def check_dtype(spec: TensorSpec, dtype: str, described: str) -> None:
    """Raise ArgumentError unless a tensor, `described` in words, has the dtype of `spec`."""
    if dtype != spec.dtype:
        raise ArgumentError(
            spec.name, expected=str(spec), actual=described, remedy=f"convert it to {spec.dtype}"
        )


def check_tensor(
    spec: TensorSpec, dtype: str, shape: Sequence[int], sizes: dict[str, int], described: str
) -> None:
    """Check the dtype and the shape of one input.

    Args:
        spec: what the model takes.
        dtype: of the tensor, named as in `TensorSpec`.
        shape: of the tensor.
        sizes: the free sizes met so far; those of this tensor are added.
        described: the tensor in words, for the message.

    Raises:
        ArgumentError: the tensor has another dtype or rank, or a size does not fit.
    """

    def refuse(expected: str = str(spec), remedy: str = "") -> None:
        raise ArgumentError(spec.name, expected=expected, actual=described, remedy=remedy)

    check_dtype(spec, dtype, described)
    if len(shape) != len(spec.shape):
        refuse()
    for axis, (size, wanted) in enumerate(zip(shape, spec.shape, strict=True)):
        low, high = spec.size_range(axis)
        if size < low:
            refuse(f"{spec}, not empty" if size == 0 else str(spec), _another(wanted, size, high))
        if high is not None and size > high:
            refuse(remedy=_another(wanted, size, high))
        if isinstance(wanted, str) and sizes.setdefault(wanted, size) != size:
            refuse(f"{spec}, with {wanted} = {sizes[wanted]} as before")


def _another(wanted: int | str, size: int, limit: int | None) -> str:
    """The remedy where an engine's range excludes a free size."""
    is_engine_range = isinstance(wanted, str) and limit is not None
    return f"build an engine for {wanted} = {size}" if is_engine_range and size else ""
