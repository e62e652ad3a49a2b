"""Who executes an exported model, by the names the command line uses."""

from __future__ import annotations

from enum import Enum
from os import PathLike

from ..errors import ArgumentError, BackendUnavailableError
from .session import Session


class Backend(str, Enum):
    """Who executes an exported model."""

    ORT = "ort"
    CPU = "cpu"
    TENSORRT = "tensorrt"


_NOT_BUILT = {
    Backend.CPU: "the native CPU kernels",
    Backend.TENSORRT: "the TensorRT runtime",
}


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
        BackendUnavailableError: the backend is not part of this release.
        OnnxFileError: the file cannot be loaded.
    """
    try:
        chosen = Backend(backend)
    except ValueError:
        names = ", ".join(member.value for member in Backend)
        raise ArgumentError(
            "backend", expected=f"one of {names}", actual=repr(backend)[:80]
        ) from None
    if chosen in _NOT_BUILT:
        raise BackendUnavailableError(
            f"backend {chosen.value}",
            expected=_NOT_BUILT[chosen],
            actual="a release that does not contain this backend",
            remedy=f"use the backend {Backend.ORT.value}, ONNX Runtime on the CPU",
        )
    from .onnxruntime_session import OrtSession

    return OrtSession(path, threads)
