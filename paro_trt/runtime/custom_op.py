"""PAROAttention in ONNX Runtime by native kernels: libparo_onnxruntime and its CUDA counterpart."""

from __future__ import annotations

from enum import Enum
from typing import Any

from ..errors import BackendUnavailableError

THREADS_ENTRY = "paro.threads"
"""Session config entry: threads of the op. It is read when the library is registered."""

_SPINNING_ENTRY = "session.intra_op.allow_spinning"
"""ONNX Runtime's own threads spin between operators, on the cores that the op's threads need."""

_PLAIN_INSTEAD = "the backend ort runs the file's own function"


class NativeOp(str, Enum):
    """Which kernels compute PAROAttention; the value is the backend's name."""

    CPU = "cpu"
    """The native CPU kernels, on ONNX Runtime's CPU provider."""

    CUDA = "cuda"
    """The TensorRT plugin's CUDA kernels, on ONNX Runtime's CUDA provider."""

    @property
    def library(self) -> str:
        """The library's name for `library_path`."""
        return "onnxruntime" if self is NativeOp.CPU else "onnxruntime_cuda"

    @property
    def providers(self) -> list[str]:
        """ONNX Runtime's providers, the first preferred."""
        return ["CUDAExecutionProvider"] * (self is NativeOp.CUDA) + ["CPUExecutionProvider"]


_BUILD_AGAIN = {NativeOp.CPU: "pip install --force-reinstall .", NativeOp.CUDA: "make plugin"}


def register_custom_op(
    options: Any, threads: int | None = None, op: NativeOp = NativeOp.CPU
) -> None:
    """Have sessions made with `options` compute PAROAttention by native kernels.

    A registered op is preferred to the function of the same name in the file.

    Args:
        options: an onnxruntime.SessionOptions, changed in place: ONNX Runtime's threads no longer
            spin while they wait.
        threads: of the op on a CPU, which starts its own; None for one for each core that the
            process may use.
        op: which kernels; those of CUDA compute nodes that the session has on its CUDA provider.

    Raises:
        BackendUnavailableError: the library was not built, or does not fit this ONNX Runtime.
    """
    from ..op.native import library_path

    options.add_session_config_entry(_SPINNING_ENTRY, "0")
    if threads is not None:
        options.add_session_config_entry(THREADS_ENTRY, str(threads))
    try:
        path = library_path(op.library)
        options.register_custom_ops_library(str(path))
    except BackendUnavailableError as error:
        raise BackendUnavailableError(
            f"backend {op.value}",
            expected=error.expected,
            actual=error.actual,
            remedy=f"{error.remedy}; or {_PLAIN_INSTEAD}",
        ) from error
    except Exception as error:  # ONNX Runtime's errors share no narrower base
        raise BackendUnavailableError(
            f"backend {op.value}: {path}",
            expected="a custom-op library that ONNX Runtime can register",
            actual=" ".join(str(error).split())[:300],
            remedy=f"build it again: {_BUILD_AGAIN[op]}; or {_PLAIN_INSTEAD}",
        ) from error


def check_provider(op: NativeOp) -> None:
    """That the installed ONNX Runtime has the provider that an op is for.

    Raises:
        BackendUnavailableError: it has not.
    """
    import onnxruntime

    available = onnxruntime.get_available_providers()
    if op.providers[0] not in available:
        raise BackendUnavailableError(
            f"backend {op.value}",
            expected=f"an ONNX Runtime with the {op.providers[0]}",
            actual=f"{onnxruntime.__version__} with {', '.join(available)}",
            remedy="pip uninstall onnxruntime; pip install onnxruntime-gpu",
        )


def unsupported_call(error: Exception, op: NativeOp) -> BackendUnavailableError | None:
    """The error to raise where a run failed since the kernels lack what the file asks for."""
    from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NotImplementedByOp

    if not isinstance(error, NotImplementedByOp):
        return None
    return BackendUnavailableError(
        f"backend {op.value}",
        expected="a file whose attention the native kernels support",
        actual=" ".join(str(error).split())[:300],
        remedy=_PLAIN_INSTEAD,
    )
