"""A stub of cuda-python whose device memory is the host's: it takes the real calls only."""

# ruff: noqa: N802, N815 (names are CUDA's)

from __future__ import annotations

import ctypes
import json
import threading
from collections.abc import Callable
from enum import Enum, IntEnum
from types import SimpleNamespace
from typing import Any

from .surface import FILE

_NAMES: dict[str, list[str]] = json.loads(FILE.read_text())["cuda"]


class Status(IntEnum):
    """cudaError_t."""

    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100


class MemcpyKind(IntEnum):
    """cudaMemcpyKind."""

    cudaMemcpyDefault = 4


class CaptureMode(Enum):
    """cudaStreamCaptureMode."""

    cudaStreamCaptureModeThreadLocal = 1


class StubCuda:
    """The module `cuda.bindings.runtime`; every call is counted.

    Args:
        sm: of the GPUs it pretends to have; None for a machine without one.
        count: how many.
    """

    cudaError_t = Status
    cudaMemcpyKind = MemcpyKind
    cudaStreamCaptureMode = CaptureMode
    cudaStreamNonBlocking = 1

    def __init__(self, sm: int | None = 89, count: int = 1) -> None:
        self.sm = sm
        self.count = count
        self.current = threading.local()
        self.used: set[int] = set()
        self.calls: list[str] = []
        self.allocations: dict[int, Any] = {}
        self.copies: list[int] = []
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.capturing: dict[int, list[Callable[[], None]]] = {}
        self._handles = 0

    def __getattr__(self, name: str) -> Callable[..., tuple[Any, ...]]:
        if name not in _NAMES:
            raise AttributeError(f"cuda-python has no {name}")
        (parameters,) = _NAMES[name]
        wanted = len([part for part in parameters.split(",") if part])
        body = getattr(self, f"_{name}")

        def call(*arguments: Any) -> tuple[Any, ...]:
            assert len(arguments) == wanted, f"{name}({parameters}) called with {arguments}"
            self.calls.append(name)
            if self.sm is None:
                return (Status.cudaErrorNoDevice, None)
            if name in ("cudaMalloc", "cudaStreamCreateWithFlags", "cudaMemcpyAsync"):
                self.used.add(self._cudaGetDevice())
            result = body(*arguments)
            return (Status.cudaSuccess,) if result is None else (Status.cudaSuccess, result)

        return call

    def enqueue(self, stream: int, work: Callable[[], None]) -> None:
        """Do work on a stream now, or keep it where the stream is being captured."""
        if stream in self.capturing:
            self.capturing[stream].append(work)
        else:
            work()

    def _handle(self) -> int:
        self._handles += 1
        return self._handles

    def _cudaGetDevice(self) -> int:
        return getattr(self.current, "device", 0)

    def _cudaGetDeviceCount(self) -> int:
        return self.count

    def _cudaSetDevice(self, device: int) -> None:
        assert 0 <= device < self.count
        self.current.device = device

    def _cudaGetDeviceProperties(self, _device: int) -> Any:
        return SimpleNamespace(name=b"Stub GPU\0", major=self.sm // 10, minor=self.sm % 10)

    def _cudaRuntimeGetVersion(self) -> int:
        return 13000

    def _cudaMalloc(self, size: int) -> int:
        buffer = ctypes.create_string_buffer(size)
        address = ctypes.addressof(buffer)
        self.allocations[address] = buffer
        return address

    def _cudaFree(self, address: int) -> None:
        del self.allocations[address]

    def _cudaMemcpyAsync(self, target: int, source: int, size: int, kind: Any, stream: int) -> None:
        assert isinstance(kind, MemcpyKind)
        assert stream not in self.capturing, "pageable copies cannot be captured"
        self.copies.append(size)
        ctypes.memmove(target, source, size)

    def _cudaStreamCreateWithFlags(self, _flags: int) -> int:
        return self._handle()

    def _cudaStreamDestroy(self, _stream: int) -> None:
        return None

    def _cudaStreamSynchronize(self, stream: int) -> None:
        assert stream not in self.capturing, "synchronizing ends a capture"

    def _cudaStreamBeginCapture(self, stream: int, mode: Any) -> None:
        assert isinstance(mode, CaptureMode)
        self.capturing[stream] = []

    def _cudaStreamEndCapture(self, stream: int) -> int:
        handle = self._handle()
        self.graphs[handle] = self.capturing.pop(stream)
        return handle

    def _cudaGraphInstantiate(self, graph: int, _flags: int) -> int:
        handle = self._handle()
        self.graphs[handle] = self.graphs[graph]
        return handle

    def _cudaGraphLaunch(self, executable: int, _stream: int) -> None:
        for work in self.graphs[executable]:
            work()

    def _cudaGraphExecDestroy(self, executable: int) -> None:
        del self.graphs[executable]

    def _cudaGraphDestroy(self, graph: int) -> None:
        del self.graphs[graph]
