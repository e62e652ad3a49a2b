"""What cuda.core says of a machine, in this package's words."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from paro_trt.engine import cuda
from paro_trt.errors import BackendUnavailableError

from .stub_cuda import NO_DEVICE, build_driver

pytest.importorskip("cuda.core", reason="asked for the GPU")

SAY = """
from paro_trt.engine.cuda import current_gpu
from paro_trt.errors import ParoError
try:
    print(current_gpu())
except ParoError as error:
    print(type(error).__name__, error)
"""


def said(setup: str = "", library_folder: Path | None = None) -> str:
    """What a fresh process says of its GPU."""
    environment = {**os.environ, "CUDA_PYTHON_DISABLE_MAJOR_VERSION_WARNING": "1"}
    if library_folder is not None:
        environment["LD_LIBRARY_PATH"] = str(library_folder)
    words = [sys.executable, "-c", setup + SAY]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    assert not done.stderr
    return done.stdout


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has a GPU's driver")
def test_no_driver():
    assert "BackendUnavailableError GPU: expected an NVIDIA GPU" in said()
    assert "NVIDIA driver library" in said()


def test_a_driver_without_a_gpu(tmp_path):
    build_driver(tmp_path)
    assert "Gpu(index=0, name='Stub GPU', sm=89)" in said("", tmp_path)
    find = "import ctypes\nfound = ctypes.c_int.in_dll(ctypes.CDLL('libcuda.so.1'), 'failure')"
    answer = said(f"{find}\nfound.value = {NO_DEVICE}", tmp_path)
    assert "BackendUnavailableError GPU" in answer
    assert "got CUDA_ERROR_NO_DEVICE" in answer


def test_cuda_core_is_not_installed():
    answer = said("import sys\nsys.modules['cuda.core'] = None")
    assert "expected the Python module cuda.core" in answer
    assert "pip install cuda-core cuda-bindings" in answer


@pytest.mark.usefixtures("newest")
def test_a_driver_that_lacks_a_call():
    with pytest.raises(BackendUnavailableError, match="cuDeviceCanAccessPeer"), cuda.our_errors():
        cuda.core().Device(0).can_access_peer(1)


@pytest.mark.usefixtures("newest")
def test_other_errors_of_cuda_are_named_and_errors_of_others_pass():
    source = np.ones(4, np.int8)
    with cuda.on_gpu(1):
        stream = cuda.core().Device(1).create_stream()
    with pytest.raises(cuda.CudaError, match="got CUDA_ERROR_OF_THE_STUB"), cuda.on_gpu(0):
        cuda.copy(source.ctypes.data, source.ctypes.data, 4, stream)
    with pytest.raises(ValueError, match="another library's"), cuda.on_gpu(0):
        raise ValueError("another library's")


@pytest.mark.usefixtures("newest")
def test_a_gpu_is_current_for_its_thread_alone():
    seen = []

    def work():
        seen.append(cuda.current_gpu().index)
        with cuda.on_gpu(1):
            seen.append(cuda.current_gpu().index)
            cuda.core().Device(1).create_stream().close()

    with cuda.on_gpu(2), cuda.on_gpu(1):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert seen == [0, 1]
    with cuda.on_gpu(2):
        with cuda.on_gpu(1), cuda.on_gpu(None):
            assert cuda.current_gpu().index == 1
        assert cuda.current_gpu() == cuda.Gpu(2, "Stub GPU", 90)


@pytest.mark.usefixtures("newest")
def test_a_copy_takes_the_bytes_asked_for():
    source, target = np.arange(8, dtype=np.int8), np.zeros(8, np.int8)
    with cuda.on_gpu(0):
        stream = cuda.core().Device(0).create_stream()
        cuda.copy(target.ctypes.data, source.ctypes.data, 5, stream)
        stream.sync()
    assert target.tolist() == [0, 1, 2, 3, 4, 0, 0, 0]
