"""Who executes an exported model, by the names the command line uses."""

from __future__ import annotations

from enum import Enum
from os import PathLike
from typing import TYPE_CHECKING

from ..errors import ArgumentError, BackendUnavailableError
from .session import Session

if TYPE_CHECKING:
    from .onnxruntime_session import OrtSession


class Backend(str, Enum):
    """Who executes an exported model."""

    ORT = "ort"
    """ONNX Runtime, PAROAttention by the function in the file."""

    CPU = "cpu"
    """ONNX Runtime, PAROAttention by the native CPU kernels."""

    TENSORRT = "tensorrt"


_ONNX_RUNTIME = (Backend.ORT, Backend.CPU)


def open_session(
    path: str | PathLike[str], backend: str | Backend = Backend.ORT, threads: int | None = None
) -> Session:
    """Load an exported model.

    Args:
        path: an ONNX file.
        backend: who executes it; none stands in for another.
        threads: CPU threads; None leaves the choice to the backend.

    Raises:
        ArgumentError: no backend of that name.
        BackendUnavailableError: the backend is not part of this installation.
        OnnxFileError: the file cannot be loaded.
    """
    chosen = _known(backend, tuple(Backend))
    if chosen in _ONNX_RUNTIME:
        return ort_session(path, chosen, threads)
    raise BackendUnavailableError(
        f"backend {chosen.value}",
        expected="the TensorRT runtime",
        actual="a release that does not contain this backend",
        remedy=f"use the backend {Backend.CPU.value}, ONNX Runtime with the native CPU kernels",
    )


def ort_session(
    path: str | PathLike[str], backend: str | Backend = Backend.CPU, threads: int | None = None
) -> OrtSession:
    """Load an exported model in ONNX Runtime on the CPU.

    Args:
        path: an ONNX file.
        backend: "cpu": PAROAttention by the native CPU kernels; "ort": by the function that the
            file carries. None stands in for the other.
        threads: of one operator; None leaves the choice to the backend.

    Raises:
        ArgumentError: no such backend, or threads is not positive.
        BackendUnavailableError: the native op was not built.
        OnnxFileError: the file cannot be loaded.
    """
    from .onnxruntime_session import OrtSession

    chosen = _known(backend, _ONNX_RUNTIME)
    return OrtSession(path, threads, native_op=chosen is Backend.CPU)


def _known(name: str | Backend, choices: tuple[Backend, ...]) -> Backend:
    for choice in choices:
        if name == choice:
            return choice
    names = ", ".join(choice.value for choice in choices)
    raise ArgumentError("backend", expected=f"one of {names}", actual=repr(name)[:80])
