"""NVIDIA's driver and its GPUs, asked through libcuda by ctypes: no package is needed."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from ..errors import BackendUnavailableError

DRIVER_LIBRARY, MANAGEMENT_LIBRARY = "libcuda.so.1", "libnvidia-ml.so.1"

_MAJOR, _MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR."""

_NAME_BYTES = 256


@dataclass(frozen=True)
class DriverGpu:
    """A GPU, in the driver's words.

    Args:
        name: the product's.
        sm: 10 * major + minor of its compute capability.
        memory: bytes.
    """

    name: str
    sm: int
    memory: int


@dataclass(frozen=True)
class Driver:
    """A driver.

    Args:
        cuda: the newest CUDA that it runs, such as (12, 8).
        release: its own number, such as "570.86.15"; empty where the management library is missing.
        gpus: those that this process may use.
        failure: why there is none, such as "CUDA_ERROR_NO_DEVICE"; else empty.
    """

    cuda: tuple[int, int]
    release: str
    gpus: tuple[DriverGpu, ...]
    failure: str = ""

    @property
    def described(self) -> str:
        """Such as "570.86.15, CUDA 12.8"."""
        return ", ".join(filter(None, (self.release, f"CUDA {self.cuda[0]}.{self.cuda[1]}")))


def ask_driver() -> Driver:
    """This machine's driver. It starts in this process; nothing is allocated on a GPU.

    Raises:
        BackendUnavailableError: there is no driver, or it does not say its version.
    """
    try:
        library = ctypes.CDLL(DRIVER_LIBRARY)
        version = _number(library, "cuDriverGetVersion")
    except (OSError, AttributeError) as error:
        raise BackendUnavailableError(
            "driver",
            expected=f"NVIDIA's, whose {DRIVER_LIBRARY} the loader finds",
            actual=str(error)[:200],
            remedy="install it; in a container: docker run --gpus all",
        ) from error
    cuda = version // 1000, version % 1000 // 10
    status = library.cuInit(0)
    if status:
        return Driver(cuda, _release(), (), _error_name(library, status))
    count = _number(library, "cuDeviceGetCount")
    return Driver(cuda, _release(), tuple(_gpu(library, index) for index in range(count)))


def _gpu(library: ctypes.CDLL, index: int) -> DriverGpu:
    device = _number(library, "cuDeviceGet", index)
    name, memory = ctypes.create_string_buffer(_NAME_BYTES), ctypes.c_size_t()
    library.cuDeviceGetName(name, _NAME_BYTES, device)
    library.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    major, minor = (
        _number(library, "cuDeviceGetAttribute", attribute, device)
        for attribute in (_MAJOR, _MINOR)
    )
    return DriverGpu(name.value.decode(errors="replace"), 10 * major + minor, memory.value)


def _number(library: ctypes.CDLL, call: str, *arguments: int) -> int:
    """What a call of the driver stores in its first argument; 0 where it fails."""
    value = ctypes.c_int()
    status = getattr(library, call)(ctypes.byref(value), *arguments)
    return 0 if status else value.value


def _error_name(library: ctypes.CDLL, status: int) -> str:
    name = ctypes.c_char_p()
    library.cuGetErrorName(status, ctypes.byref(name))
    return (name.value or b"").decode(errors="replace") or f"status {status}"


def _release() -> str:
    try:
        library = ctypes.CDLL(MANAGEMENT_LIBRARY)
        text = ctypes.create_string_buffer(_NAME_BYTES)
        if library.nvmlInit_v2() or library.nvmlSystemGetDriverVersion(text, _NAME_BYTES):
            return ""
        library.nvmlShutdown()
    except (OSError, AttributeError):
        return ""
    return text.value.decode(errors="replace")
