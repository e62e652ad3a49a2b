"""GPUs and copies by cuda.core, its errors turned into ours."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from ..errors import ArgumentError, BackendUnavailableError, ParoError

MODULE, BINDINGS = "cuda.core", "cuda.bindings"

_NO_GPU = (
    "CUDA_ERROR_NO_DEVICE", "CUDA_ERROR_STUB_LIBRARY", "CUDA_ERROR_SYSTEM_NOT_READY",
    "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE",
)  # fmt: skip


class CudaError(ParoError, RuntimeError):
    """A call of CUDA failed."""


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
def core() -> Any:
    """The module cuda.core.

    Raises:
        BackendUnavailableError: it is not installed or does not load.
    """
    try:
        return importlib.import_module(MODULE)
    except ImportError as error:
        raise BackendUnavailableError(
            "CUDA", expected=f"the Python module {MODULE}", actual=str(error)[:200],
            remedy="pip install 'paro-trt[tensorrt]', or: pip install cuda-core cuda-bindings",
        ) from error  # fmt: skip


@contextmanager
def our_errors() -> Iterator[None]:
    """Turn errors of cuda.core into ours.

    Raises:
        BackendUnavailableError: there is no GPU, no driver, or one that lacks a call.
        CudaError: any other error of CUDA.
    """
    try:
        yield
    except Exception as error:
        # cuda.core exports no class of its errors.
        if type(error).__module__.partition(".")[0] != "cuda":
            raise
        status = str(error).partition(":")[0][:200]
        # Errors of finding the driver and its calls bear no status.
        if status in _NO_GPU or not status.startswith("CUDA_ERROR"):
            raise BackendUnavailableError(
                "GPU", expected="an NVIDIA GPU with a driver for this CUDA", actual=status,
                remedy="nvidia-smi says what the machine has; install or update its driver",
            ) from error  # fmt: skip
        raise CudaError("CUDA", expected="success", actual=status) from error


def current_gpu() -> Gpu:
    """The current GPU.

    Raises:
        BackendUnavailableError: there is none, or no CUDA.
    """
    with our_errors():
        device = core().Device()
        major, minor = device.compute_capability
        return Gpu(device.device_id, device.name, 10 * major + minor)


@contextmanager
def on_gpu(index: int | None) -> Iterator[None]:
    """Make a GPU the calling thread's current one for a while; None leaves it as it is.

    Threads begin with GPU 0, whatever the thread that started them had chosen, and without a
    context, which cuda.core's calls need. It is the primary one, as of torch and CUDA's runtime.

    Raises:
        ArgumentError: there is no such GPU; else as `our_errors`.
    """
    if index is None:
        yield
        return
    with our_errors():
        before, count = core().Device(), len(core().Device.get_all_devices())
        if not 0 <= index < count:
            raise ArgumentError("gpu", expected=f"0 to {count - 1}", actual=str(index))
        core().Device(index).set_current()
        try:
            yield
        finally:
            if before.device_id != index:
                before.set_current()


def device_memory(index: int) -> Any:
    """Where to allocate on a GPU: cuda.core's MemoryResource.

    A pool of its own returns memory to the GPU. The default pool keeps it for the process, and
    finding it takes a driver of CUDA 13.
    """
    device = core().Device(index)
    if not device.properties.memory_pools_supported:
        return device.memory_resource
    return core().DeviceMemoryResource(index, core().DeviceMemoryResourceOptions())


def bindings_version() -> str:
    """CUDA's version that cuda.core speaks, such as "13.0": that of cuda.bindings."""
    version: str = importlib.import_module(BINDINGS).__version__
    return ".".join(version.split(".")[:2])


def copy(target: int, source: int, size: int, stream: Any) -> None:
    """Queue a copy between host and device memory; addresses tell which is which."""
    buffer = core().Buffer
    buffer.from_handle(target, size).copy_from(buffer.from_handle(source, size), stream=stream)
