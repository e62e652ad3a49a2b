"""PAROAttention in ONNX Runtime by the native CPU kernels: libparo_onnxruntime."""

from __future__ import annotations

from typing import Any

from ..errors import BackendUnavailableError

THREADS_ENTRY = "paro.threads"
"""Session config entry: threads of the op. It is read when the library is registered."""

_SPINNING_ENTRY = "session.intra_op.allow_spinning"
"""ONNX Runtime's own threads spin between operators, on the cores that the op's threads need."""

_PLAIN_INSTEAD = "the backend ort runs the file's own function"


def register_custom_op(options: Any, threads: int | None = None) -> None:
    """Have sessions made with `options` compute PAROAttention by the native CPU kernels.

    A registered op is preferred to the function of the same name in the file.

    Args:
        options: an onnxruntime.SessionOptions, changed in place: ONNX Runtime's threads no longer
            spin while they wait.
        threads: of the op, which starts its own; None for one for each core that the process may
            use.

    Raises:
        BackendUnavailableError: the library was not built, or does not fit this ONNX Runtime.
    """
    from ..op.native import library_path

    options.add_session_config_entry(_SPINNING_ENTRY, "0")
    if threads is not None:
        options.add_session_config_entry(THREADS_ENTRY, str(threads))
    try:
        path = library_path("onnxruntime")
        options.register_custom_ops_library(str(path))
    except BackendUnavailableError as error:
        raise BackendUnavailableError(
            "backend cpu",
            expected=error.expected,
            actual=error.actual,
            remedy=f"{error.remedy}; or {_PLAIN_INSTEAD}",
        ) from error
    except Exception as error:  # ONNX Runtime's errors share no narrower base
        raise BackendUnavailableError(
            f"backend cpu: {path}",
            expected="a custom-op library that ONNX Runtime can register",
            actual=" ".join(str(error).split())[:300],
            remedy=f"build it again: pip install --force-reinstall .; or {_PLAIN_INSTEAD}",
        ) from error


def unsupported_call(error: Exception) -> BackendUnavailableError | None:
    """The error to raise where a run failed since the kernels lack what the file asks for."""
    from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NotImplementedByOp

    if not isinstance(error, NotImplementedByOp):
        return None
    return BackendUnavailableError(
        "backend cpu",
        expected="a file whose attention the native kernels support",
        actual=" ".join(str(error).split())[:300],
        remedy=_PLAIN_INSTEAD,
    )
