"""A driver that the tests make: fake_driver.c compiled to the libraries that ctypes opens."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from paro_trt.library_files import ABI_VERSION
from paro_trt.nvidia.driver import DRIVER_LIBRARY, MANAGEMENT_LIBRARY

SOURCE = Path(__file__).with_name("fake_driver.c")


@functools.cache
def _compiled() -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not on the PATH")
    folder = Path(tempfile.mkdtemp(prefix="paro-driver-"))
    library = folder / DRIVER_LIBRARY
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(library), str(SOURCE)], check=True)
    (folder / MANAGEMENT_LIBRARY).symlink_to(library)
    return folder


def fake_driver(
    cuda: tuple[int, int], release: str = "", sms: tuple[int, ...] = (89,), failure: int = 0
) -> dict[str, str]:
    """Environment variables that give a new process this driver and these GPUs.

    Args:
        cuda: the newest CUDA that it runs.
        release: its own number; empty where it is not to be found.
        sms: of its GPUs.
        failure: the status with which it does not start.
    """
    path = os.pathsep.join(filter(None, (str(_compiled()), os.environ.get("LD_LIBRARY_PATH"))))
    told = {
        "LD_LIBRARY_PATH": path,
        "FAKE_CUDA": str(1000 * cuda[0] + 10 * cuda[1]),
        "FAKE_SMS": ",".join(map(str, sms)),
        "FAKE_FAILURE": str(failure),
    }
    return told | ({"FAKE_RELEASE": release} if release else {})


def fake_cuda_library(path: Path, cuda: str) -> None:
    """A kernel library that says it was compiled by a CUDA, and refuses every call.

    Args:
        path: the library to write.
        cuda: such as "13.0".
    """
    calls = ("workspace_bytes", "describe", "prepare", "forward", "measure_peak")
    source = path.with_suffix(".c")
    source.write_text(
        f'const char *paro_library_name(void) {{ return "paro-cuda 0.1.0, CUDA {cuda}"; }}\n'
        f"unsigned paro_abi_version(void) {{ return {ABI_VERSION}; }}\n"
        'const char *paro_last_error(void) { return "device: none here"; }\n'
        + "".join(f"int paro_{call}(void) {{ return 4; }}\n" for call in calls)
    )
    path.unlink(missing_ok=True)  # it may be loaded
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(path), str(source)], check=True)
