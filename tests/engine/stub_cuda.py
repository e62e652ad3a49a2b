"""The real cuda.core on a stub of the driver, `stub_driver.c`, whose GPUs use the host's memory."""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).with_name("stub_driver.c")
NO_DEVICE = 100
"""CUDA_ERROR_NO_DEVICE."""

_REPORT = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_uint64, ctypes.c_int)
_WORK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def build_driver(folder: Path) -> Path:
    """A library by the driver's file name."""
    library = folder / "libcuda.so.1"
    words = ["gcc", "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"]
    subprocess.run(words, check=True)
    return library


@cache
def driver() -> ctypes.CDLL:
    """The stub, in place of the driver for cuda.core for the rest of this process.

    Only cuda.bindings finds it: by the loader's path it would take the place of a real driver
    for torch too.
    """
    # The stub is a driver of CUDA 12, for which cuda.bindings 13 has a warning.
    os.environ["CUDA_PYTHON_DISABLE_MAJOR_VERSION_WARNING"] = "1"
    import cuda.bindings._internal.driver as bindings
    from cuda.pathfinder import LoadedDL

    with tempfile.TemporaryDirectory() as folder:
        path = build_driver(Path(folder))
        library = ctypes.CDLL(str(path))
    loaded = LoadedDL(str(path), True, library._handle, "tests")
    bindings.load_nvidia_dynamic_lib = lambda _name: loaded
    return library


class StubCuda:
    """What cuda.core asks of the driver, from now on; there are three GPUs, the last an SM 90."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.copies: list[int] = []
        """Bytes of each."""
        self.allocations: set[int] = set()
        self.graphs: set[int] = set()
        """Those that have not been freed."""
        self.used: set[int] = set()
        """GPUs that were current when memory or streams were made, or copies queued."""
        self.failed: list[Exception] = []
        """What work on a stream raised."""
        self._work: list[object] = []
        self._report = _REPORT(self._note)
        self.fail(0)
        ctypes.c_void_p.in_dll(driver(), "report").value = ctypes.cast(
            self._report, ctypes.c_void_p
        ).value

    def fail(self, status: int) -> None:
        """Have the driver answer with a status that says why there is no GPU; 0: there are."""
        ctypes.c_int.in_dll(driver(), "failure").value = status

    def enqueue(self, stream: int, work: Callable[[], None]) -> None:
        """Do work on a stream now, or at each launch of a graph where it is being captured."""

        def run(_data: object) -> None:
            try:
                work()
            except Exception as error:
                self.failed.append(error)

        self._work.append(_WORK(run))
        status = driver().enqueue(ctypes.c_void_p(stream), self._work[-1], None)
        assert (status, self.failed) == (0, [])

    def _note(self, name: bytes, value: int, gpu: int) -> None:
        call = name.decode()
        self.calls.append(call)
        if call in ("allocate", "cuStreamCreate", "cuMemcpyAsync"):
            self.used.add(gpu)
        if call == "cuMemcpyAsync":
            self.copies.append(value)
        made = self.allocations if call in ("allocate", "free") else self.graphs
        if call in ("allocate", "cuGraphInstantiate"):
            made.add(value)
        elif call in ("free", "cuGraphExecDestroy"):
            made.remove(value)
