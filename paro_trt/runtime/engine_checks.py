"""Inputs and outputs of an engine, checked against its manifest before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..engine.manifest import EngineTensor
from ..errors import ArgumentError
from .dlpack import TensorView, view_of


def check_names(kind: str, entries: Sequence[EngineTensor], given: Mapping[str, Any]) -> None:
    """Raise ArgumentError unless the names are exactly those of the engine."""
    names = [entry.name for entry in entries]
    for fault, wrong in (
        ("missing", [name for name in names if name not in given]),
        ("unknown", [name for name in given if name not in names]),
    ):
        if wrong:
            raise ArgumentError(
                kind, expected=", ".join(names), actual=f"{', '.join(map(str, wrong))} {fault}"
            )


def input_views(
    entries: Sequence[EngineTensor], inputs: Mapping[str, Any], gpu: int, stream: int
) -> tuple[dict[str, TensorView], dict[str, int]]:
    """Views of the inputs and the free sizes they fix.

    Raises:
        ArgumentError: an input is missing, unknown, of another dtype or shape, out of the
            engine's range, not contiguous, or on another GPU.
    """
    check_names("inputs", entries, inputs)
    sizes: dict[str, int] = {}
    views = {}
    for entry in entries:
        view = view_of(entry.name, inputs[entry.name], stream)
        _check_shape(entry, view, sizes)
        _check_layout(entry, view, gpu)
        views[entry.name] = view
    return views, sizes


def output_shape(entry: EngineTensor, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Shape of an output at the free sizes of the inputs."""
    return tuple(sizes[size] if isinstance(size, str) else size for size in entry.shape)


def output_view(
    entry: EngineTensor, value: Any, shape: tuple[int, ...], gpu: int, stream: int
) -> TensorView:
    """View of a tensor to write into.

    Raises:
        ArgumentError: it has another dtype or shape, is not contiguous, cannot be written, or is
            on another GPU.
    """
    view = view_of(entry.name, value, stream)
    _check_layout(entry, view, gpu)
    writable = getattr(getattr(value, "flags", None), "writeable", True)
    if view.shape != shape or not writable:
        raise ArgumentError(
            entry.name,
            expected=f"{entry.dtype} {list(shape)} to write into",
            actual=str(view) + ("" if writable else ", read-only"),
        )
    return view


def _check_layout(entry: EngineTensor, view: TensorView, gpu: int) -> None:
    if view.dtype != entry.dtype:
        raise ArgumentError(
            entry.name, expected=_described(entry), actual=str(view),
            remedy=f"convert it to {entry.dtype}",
        )  # fmt: skip
    if not view.contiguous:
        raise ArgumentError(
            entry.name, expected="a contiguous tensor", actual=str(view),
            remedy="pass tensor.contiguous(), or numpy.ascontiguousarray(array)",
        )  # fmt: skip
    if view.gpu not in (None, gpu):
        raise ArgumentError(
            entry.name, expected=f"a tensor in host memory or on GPU {gpu}, the engine's",
            actual=str(view), remedy=f"move it to GPU {gpu}",
        )  # fmt: skip


def _check_shape(entry: EngineTensor, view: TensorView, sizes: dict[str, int]) -> None:
    """Check sizes; `sizes` collects the free ones met so far."""
    if len(view.shape) != len(entry.shape):
        raise ArgumentError(entry.name, expected=_described(entry), actual=str(view))
    for axis, (size, wanted) in enumerate(zip(view.shape, entry.shape, strict=True)):
        low, high = entry.min[axis], entry.max[axis]
        if not low <= size <= high:
            free = isinstance(wanted, str)
            raise ArgumentError(
                entry.name,
                expected=_described(entry),
                actual=str(view),
                remedy=f"build an engine for {wanted} = {size}" if free else "",
            )
        if isinstance(wanted, str) and sizes.setdefault(wanted, size) != size:
            raise ArgumentError(
                entry.name,
                expected=f"{_described(entry)}, with {wanted} = {sizes[wanted]} as before",
                actual=str(view),
            )


def _described(entry: EngineTensor) -> str:
    shape = (
        f"{size}={low}..{high}" if isinstance(size, str) else str(size)
        for size, low, high in zip(entry.shape, entry.min, entry.max, strict=True)
    )
    return f"{entry.dtype} [{', '.join(shape)}]"
