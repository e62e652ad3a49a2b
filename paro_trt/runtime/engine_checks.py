"""Inputs and outputs of an engine, checked against its manifest before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..engine.manifest import EngineTensor
from ..errors import ArgumentError
from ..onnx_file.tensors import check_dtype, check_names, check_tensor
from .dlpack import TensorView, view_of


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
        check_tensor(entry, view.dtype, view.shape, sizes, str(view))
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
    check_dtype(entry, view.dtype, str(view))
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
