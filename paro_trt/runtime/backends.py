"""The backends that execute an exported model, by the names the command line uses."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from enum import Enum
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ArgumentError
from .session import Session

if TYPE_CHECKING:
    from .engine import EngineTurns
    from .onnxruntime_session import OrtSession
    from .weight_streaming import Budget


class Backend(str, Enum):
    """Who executes an exported model."""

    ORT = "ort"
    """ONNX Runtime, PAROAttention by the function in the file."""

    CPU = "cpu"
    """ONNX Runtime, PAROAttention by the native CPU kernels."""

    CUDA = "cuda"
    """ONNX Runtime on a GPU (onnxruntime-gpu), PAROAttention by the plugin's CUDA kernels."""

    TENSORRT = "tensorrt"
    """A TensorRT engine of it, on a GPU."""


_ONNX_RUNTIME = (Backend.ORT, Backend.CPU, Backend.CUDA)

ENGINE_SUFFIXES = (".engine", ".plan")
"""Names of engine files; any other file is taken for an ONNX model."""


def open_session(
    path: str | PathLike[str],
    backend: str | Backend | None = None,
    threads: int | None = None,
    *,
    weight_streaming_budget: Budget = None,
    check_hash: bool = True,
    turns: EngineTurns | None = None,
) -> Session:
    """Load an exported model or an engine.

    Args:
        path: an ONNX file, or an engine with its manifest next to it.
        backend: who executes it, without a fallback to another. None: "tensorrt" for an engine,
            by its name, and "ort" for anything else.
        threads: CPU threads; None leaves the choice to the backend.
        weight_streaming_budget: of an engine, as `Engine` takes it.
        check_hash: of an engine, as `Engine` takes it.
        turns: of an engine, as `Engine` takes it. ONNX Runtime's sessions take none.

    Raises:
        ArgumentError: no backend of that name, or one that does not take such a file.
        BackendUnavailableError: the backend is not part of this installation.
        OnnxFileError: the ONNX file cannot be loaded.
        EngineError: the engine cannot be loaded, or is for another machine.
    """
    default = default_backend(path)
    is_engine = default is Backend.TENSORRT
    chosen = default if backend is None else _known(backend, tuple(Backend))
    if is_engine is not (chosen is Backend.TENSORRT):
        raise ArgumentError(
            str(path),
            expected="an ONNX file" if is_engine else f"an engine, {' or '.join(ENGINE_SUFFIXES)}",
            actual=f"{'an engine' if is_engine else 'another file'} for backend {chosen.value}",
            remedy="leave the backend to be chosen" if is_engine else "paro-trt build makes one",
        )
    if chosen in _ONNX_RUNTIME:
        if weight_streaming_budget is not None:
            raise ArgumentError(
                "weight_streaming_budget", expected="none: it is an engine's",
                actual=str(weight_streaming_budget),
            )  # fmt: skip
        return ort_session(path, chosen, threads)
    from .engine import Engine
    from .tensorrt_session import TensorRtSession

    return TensorRtSession(
        Engine(
            path, weight_streaming_budget=weight_streaming_budget, check_hash=check_hash,
            turns=turns,
        )
    )  # fmt: skip


def session_for(
    target: str | PathLike[str] | Session,
    backend: str | Backend | None = None,
    *,
    weight_streaming_budget: Budget = None,
    turns: EngineTurns | None = None,
) -> AbstractContextManager[Session]:
    """A session of a file, which the context closes; an open session, which stays as it is.

    Raises:
        ArgumentError: a backend or a budget for a session that has one, or as of `open_session`.
        ParoError: as of `open_session`.
    """
    options = {"backend": backend, "weight_streaming_budget": weight_streaming_budget}
    if not isinstance(target, Session):
        return open_session(
            target, backend, weight_streaming_budget=weight_streaming_budget, turns=turns
        )
    for name, value in options.items():
        if value is not None:
            raise ArgumentError(
                name, expected="none with an open session, which has one", actual=str(value)
            )
    return nullcontext(target)


def default_backend(path: str | PathLike[str]) -> Backend:
    """The backend for a file of this name when the caller names none."""
    return Backend.TENSORRT if Path(path).suffix in ENGINE_SUFFIXES else Backend.ORT


def ort_session(
    path: str | PathLike[str], backend: str | Backend = Backend.CPU, threads: int | None = None
) -> OrtSession:
    """Load an exported model in ONNX Runtime.

    Args:
        path: an ONNX file.
        backend: "cpu": PAROAttention by the native CPU kernels; "cuda": the model on ONNX Runtime's
            CUDA provider, PAROAttention by the CUDA kernels; "ort": on the CPU, by the function
            that the file carries. There is no fallback to another.
        threads: of one operator; None leaves the choice to the backend.

    Raises:
        ArgumentError: no such backend, or threads is not positive.
        BackendUnavailableError: the native op was not built, or ONNX Runtime lacks its provider.
        OnnxFileError: the file cannot be loaded.
    """
    from .custom_op import NativeOp
    from .onnxruntime_session import OrtSession

    chosen = _known(backend, _ONNX_RUNTIME)
    native_op = None if chosen is Backend.ORT else NativeOp(chosen.value)
    return OrtSession(path, threads, native_op=native_op)


def _known(name: str | Backend, choices: tuple[Backend, ...]) -> Backend:
    for choice in choices:
        if name == choice:
            return choice
    names = ", ".join(choice.value for choice in choices)
    raise ArgumentError("backend", expected=f"one of {names}", actual=repr(name)[:80])
