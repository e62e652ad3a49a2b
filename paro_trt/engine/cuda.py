"""The few calls of the CUDA runtime that engines need, by cuda-python, errors turned into ours."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from ..errors import ArgumentError, BackendUnavailableError, ParoError

MODULE = "cuda.bindings.runtime"

_INSUFFICIENT_DRIVER, _NO_DEVICE = "cudaErrorInsufficientDriver", "cudaErrorNoDevice"


class CudaError(ParoError, RuntimeError):
    """A call of the CUDA runtime failed."""


@dataclass(frozen=True)
class Gpu:
    """A GPU.

    Args:
        index: as CUDA counts.
        name: the product's.
        sm: 10 * major + minor of its compute capability, such as 89.
    """

    index: int
    name: str
    sm: int


@cache
def runtime() -> Any:
    """cuda-python's module of the CUDA runtime.

    Raises:
        BackendUnavailableError: it is not installed or does not load.
    """
    try:
        return importlib.import_module(MODULE)
    except ImportError as error:
        raise BackendUnavailableError(
            "CUDA", expected=f"the Python module {MODULE}", actual=str(error)[:200],
            remedy="pip install 'paro-trt[tensorrt]', or: pip install cuda-python",
        ) from error  # fmt: skip


def check(name: str, result: tuple[Any, ...]) -> Any:
    """The value of a call that returned (status, value...).

    Raises:
        BackendUnavailableError: there is no GPU, or its driver is too old.
        CudaError: anything else than success.
    """
    status, *values = result
    if status == runtime().cudaError_t.cudaSuccess:
        return values[0] if len(values) == 1 else tuple(values)
    if status.name in (_INSUFFICIENT_DRIVER, _NO_DEVICE):
        raise BackendUnavailableError(
            "GPU",
            expected="an NVIDIA GPU with a driver for this CUDA",
            actual=status.name,
            remedy="nvidia-smi says what the machine has; install or update its driver",
        )
    raise CudaError(name, expected="success", actual=status.name)


def call(name: str, *arguments: Any) -> Any:
    """The value of runtime().<name>(*arguments); see `check`."""
    return check(name, getattr(runtime(), name)(*arguments))


def current_gpu() -> Gpu:
    """The current GPU.

    Raises:
        BackendUnavailableError: there is none, or no CUDA.
    """
    index = call("cudaGetDevice")
    properties = call("cudaGetDeviceProperties", index)
    raw = properties.name
    name = raw.decode(errors="replace").rstrip("\0") if isinstance(raw, bytes) else str(raw)
    return Gpu(index, name, 10 * properties.major + properties.minor)


@contextmanager
def on_gpu(index: int | None) -> Iterator[None]:
    """Make a GPU the calling thread's current one for a while; None leaves it as it is.

    Threads begin with GPU 0, whatever the thread that started them had chosen.

    Raises:
        ArgumentError: there is no such GPU.
    """
    if index is None or (before := call("cudaGetDevice")) == index:
        yield
        return
    count = int(call("cudaGetDeviceCount"))
    if not 0 <= index < count:
        raise ArgumentError("gpu", expected=f"0 to {count - 1}", actual=str(index))
    call("cudaSetDevice", index)
    try:
        yield
    finally:
        call("cudaSetDevice", before)


def runtime_version() -> str:
    """CUDA's version, such as "13.0"."""
    number = int(call("cudaRuntimeGetVersion"))
    return f"{number // 1000}.{number % 1000 // 10}"


class Stream:
    """A CUDA stream of its own; close it, or use it as a context manager."""

    def __init__(self) -> None:
        self.handle: Any = call("cudaStreamCreateWithFlags", runtime().cudaStreamNonBlocking)

    @property
    def address(self) -> int:
        """The cudaStream_t as a number."""
        return int(self.handle)

    def synchronize(self) -> None:
        """Wait for everything queued so far."""
        call("cudaStreamSynchronize", self.handle)

    def close(self) -> None:
        """Destroy the stream. Harmless when repeated."""
        if self.handle is not None:
            call("cudaStreamDestroy", self.handle)
            self.handle = None


class DeviceBuffer:
    """Device memory that grows when asked for more."""

    def __init__(self) -> None:
        self.address = 0
        self.size = 0

    def reserve(self, size: int) -> int:
        """Address of at least `size` bytes; the content is lost when it grows."""
        if size > self.size:
            self.close()
            self.address = int(call("cudaMalloc", size))
            self.size = size
        return self.address

    def close(self) -> None:
        """Free the memory. Harmless when repeated."""
        if self.address:
            call("cudaFree", self.address)
        self.address = self.size = 0


def copy(target: int, source: int, size: int, stream: Any) -> None:
    """Queue a copy between host and device memory; addresses tell which is which."""
    kind = runtime().cudaMemcpyKind.cudaMemcpyDefault
    call("cudaMemcpyAsync", target, source, size, kind, stream)
