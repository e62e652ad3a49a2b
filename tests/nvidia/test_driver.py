"""What the driver says of a machine, and what goes with it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from paro_trt.errors import BackendUnavailableError
from paro_trt.nvidia.driver import Driver
from paro_trt.nvidia.toolkits import (
    CUDA_DRIVERS,
    GPUS,
    OLDEST_NVCC,
    TENSORRT,
    WHEEL_NVCC,
    built_for,
    check_driver,
    check_release,
    generation_of,
    oldest_driver,
)
from tests.support.fake_driver import fake_driver

ROOT = Path(__file__).resolve().parents[2]

ASK = """
import json
from dataclasses import asdict
from paro_trt.errors import ParoError
from paro_trt.nvidia.driver import ask_driver
try:
    print(json.dumps(asdict(ask_driver()) | {"described": ask_driver().described}))
except ParoError as error:
    print(json.dumps(str(error)))
"""


def asked(**environment: str):
    """What a fresh process says of its driver, with the standard library alone."""
    words = [sys.executable, "-S", "-c", ASK]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return json.loads(subprocess.check_output(words, env=env, text=True, cwd="/"))


def test_driver_and_gpus_are_asked_without_any_package() -> None:
    told = asked(**fake_driver((12, 8), "570.86.15", (89, 120)))
    assert (told["cuda"], told["described"]) == ([12, 8], "570.86.15, CUDA 12.8")
    assert told["gpus"] == [
        {"name": "Fake GPU 0", "sm": 89, "memory": 24 << 30},
        {"name": "Fake GPU 1", "sm": 120, "memory": 24 << 30},
    ]


def test_a_driver_that_does_not_start_says_why() -> None:
    told = asked(**fake_driver((13, 0), failure=100))
    assert (told["gpus"], told["failure"]) == ([], "CUDA_ERROR_NO_DEVICE")
    assert told["described"] == "CUDA 13.0"  # no management library that answers


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has a GPU's driver")
def test_no_driver_is_one_line() -> None:
    assert re.match(r"driver: expected NVIDIA's.*got libcuda.so.1.*; fix: install it", asked())


def test_a_driver_of_another_major_is_refused_with_both_ways_out() -> None:
    old = Driver((12, 8), "570.86.15", ())
    check_driver(old, 12, "x", "y")
    with pytest.raises(BackendUnavailableError) as refused:
        check_driver(old, 13, "cuda-bindings 13.5.0", "pip install 'cuda-bindings<13'")
    assert str(refused.value) == (
        "cuda-bindings 13.5.0: expected a driver of CUDA 13, 580.65.06 or later, "
        "got 570.86.15, CUDA 12.8; fix: update the driver, or pip install 'cuda-bindings<13'"
    )


def test_a_release_is_compared_by_its_numbers() -> None:
    with pytest.raises(BackendUnavailableError, match=r"release 535 or later, got 525\.147"):
        check_release(Driver((12, 0), "525.147.05", ()), "535", "TensorRT")
    check_release(Driver((12, 2), "1000.1", ()), "535", "TensorRT")
    check_release(Driver((12, 0), "", ()), "535", "TensorRT")  # it does not say


@pytest.mark.parametrize(
    ("name", "cuda"),
    [
        ("paro-cuda 0.1.0, CUDA 13.0", 13),
        ("paro-cuda 0.1.0, CUDA 12.9; wgmma for sm_90; ABI 2", 12),
        ("paro-cuda 0.1.0", None),
        ("paro-emulated 0.1.0", None),
    ],
)
def test_a_library_says_its_cuda(name: str, cuda: int | None) -> None:
    assert built_for(name) == cuda


def test_drivers_of_gpus() -> None:
    assert oldest_driver(12, 89) == CUDA_DRIVERS[12]  # newer than the first for such a GPU
    assert oldest_driver(12, 120) == "570.26"  # the GPU's own is newer than CUDA 12's
    assert oldest_driver(13, 120) == CUDA_DRIVERS[13]
    ampere, later_blackwell = generation_of(87), generation_of(121)
    assert ampere is not None
    assert later_blackwell is not None
    assert (ampere.sms, later_blackwell.sms, generation_of(75)) == ((86,), (120,), None)


def test_releases_of_tensorrt_belong_to_one_row() -> None:
    def rows(package: str, release: tuple[int, ...]) -> list[str]:
        return [row.first for row in TENSORRT if row.package == package and row.contains(release)]

    assert rows("tensorrt", (10, 13, 0, 35)) == ["10.0"]
    assert rows("tensorrt", (10, 13, 2, 6)) == ["10.13.2"]
    assert rows("tensorrt", (10, 16, 1, 11)) == ["10.13.2"]
    assert rows("tensorrt", (11, 4, 0, 106)) == ["11.0"]
    assert rows("tensorrt-rtx", (1, 7, 1, 116)) == ["1.4"]
    assert rows("tensorrt", (12, 0)) == []


def test_the_page_shows_the_table() -> None:
    page = (ROOT / "docs" / "support.md").read_text()
    for row in GPUS:
        cells = f"| {row.products} | {', '.join(map(str, row.sms))} |"
        assert f"{cells} {row.cuda} | {oldest_driver(12, row.sms[0])} | " in page
    for entry in TENSORRT:
        wheels = ", ".join(f"cu{cuda}: {driver}" for cuda, driver in entry.drivers.items())
        assert f"| {entry.package} | {entry.first} to {entry.last} | {wheels} |" in page


def test_build_files_agree_with_the_table() -> None:
    cmake = (ROOT / "plugins/cmake/Cuda.cmake").read_text()
    assert f"PARO_CUDA_OLDEST_NVCC {OLDEST_NVCC[0]}.{OLDEST_NVCC[1]})" in cmake
    wheels = (ROOT / "plugins/cmake/cuda-wheels.txt").read_text()
    assert f"nvidia-cuda-nvcc=={WHEEL_NVCC[0]}.{WHEEL_NVCC[1]}.*" in wheels
