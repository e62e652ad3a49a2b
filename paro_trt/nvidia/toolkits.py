"""Which driver each GPU, CUDA and TensorRT needs: the one table, which docs/support.md shows.

Read on 2026-11-30 in NVIDIA's pages (CUDA's release notes and compatibility guide, TensorRT's and
TensorRT for RTX's support matrices) and from the wheels on PyPI; nothing of it was tried on a GPU.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import BackendUnavailableError
from .driver import Driver

CUDA_DRIVERS = {12: "525.60.13", 13: "580.65.06"}
"""Major of CUDA -> the oldest Linux driver that runs machine code of any toolkit of that major."""

OLDEST_SM = 80
"""What the oldest kernels run on."""

OLDEST_NVCC = (12, 8)
"""The first to know sm_120; plugins/cmake/Cuda.cmake has it too."""

WHEEL_NVCC = (13, 0)
"""What plugins/cmake/cuda-wheels.txt installs. PyPI has an nvcc of CUDA 13 alone; of 12.9, it has
ptxas and the runtime, which plugins/cmake/assemble_cuda12.sh joins with this nvcc."""


@dataclass(frozen=True)
class GpuGeneration:
    """GPUs of one kind of machine code.

    Args:
        sms: 10 * major + minor of their compute capabilities.
        name: of the architecture.
        products: the usual ones.
        cuda: the first toolkit that compiles for them.
        driver: the first Linux driver for them, that toolkit's.
    """

    sms: tuple[int, ...]
    name: str
    products: str
    cuda: str
    driver: str


GPUS = (
    GpuGeneration((80,), "Ampere", "A100, A30", "11.0", "450.36.06"),
    GpuGeneration((86,), "Ampere", "RTX 3090, A10, A40, RTX A6000", "11.1", "455.23"),
    GpuGeneration((89,), "Ada", "RTX 4090, L4, L40S, RTX 6000 Ada", "11.8", "520.61.05"),
    GpuGeneration((90,), "Hopper", "H100, H200, GH200", "11.8", "520.61.05"),
    GpuGeneration((100,), "Blackwell", "B200, GB200", "12.8", "570.26"),
    GpuGeneration((120,), "Blackwell", "RTX 5090, RTX PRO 6000", "12.8", "570.26"),
)


@dataclass(frozen=True)
class TensorRtReleases:
    """Releases of TensorRT with wheels for the same CUDA.

    Args:
        package: on PyPI; `package`-cu12 and `package`-cu13 are for one CUDA.
        first, last: releases, both included.
        drivers: major of CUDA that there is a wheel for -> the oldest Linux driver for it.
    """

    package: str
    first: str
    last: str
    drivers: dict[int, str]

    @property
    def module(self) -> str:
        """Its Python module."""
        return self.package.replace("-", "_")

    def contains(self, release: tuple[int, ...]) -> bool:
        """Whether a release, such as (10, 16, 1), is one of these."""
        last = release_numbers(self.last)
        return release_numbers(self.first) <= release and release[: len(last)] <= last


TENSORRT = (
    TensorRtReleases("tensorrt", "10.0", "10.13.0", {12: CUDA_DRIVERS[12]}),
    TensorRtReleases("tensorrt", "10.13.2", "10.16", CUDA_DRIVERS),
    TensorRtReleases("tensorrt", "11.0", "11.4", {12: "535", 13: CUDA_DRIVERS[13]}),
    TensorRtReleases("tensorrt-rtx", "1.4", "1.7", {13: CUDA_DRIVERS[13]}),
)


def release_numbers(release: str) -> tuple[int, ...]:
    """The numbers of a version, such as (580, 65, 6), to be compared."""
    return tuple(int(number) for number in re.findall(r"\d+", release))


def generation_of(sm: int) -> GpuGeneration | None:
    """The row of `GPUS` for a GPU: its own, or the one whose machine code it runs."""
    older = [row for row in GPUS if row.sms[0] // 10 == sm // 10 and row.sms[0] <= sm]
    return older[-1] if older else None


def oldest_driver(cuda: int, sm: int | None = None) -> str:
    """The oldest Linux driver for a major of CUDA, on a GPU if one is given."""
    row = None if sm is None else generation_of(sm)
    releases = [CUDA_DRIVERS.get(cuda, ""), "" if row is None else row.driver]
    return max(releases, key=release_numbers)


def built_for(library_name: str) -> int | None:
    """Major of CUDA in a kernel library's name, "paro-cuda 0.1.0, CUDA 13.0"; None without one."""
    found = re.search(r"paro-cuda [^,;]*, CUDA (\d+)\.", library_name)
    return None if found is None else int(found[1])


def plugin_remedy() -> str:
    """What helps where the driver is older than the CUDA that the plugin was compiled for."""
    oldest = min(CUDA_DRIVERS)
    return f"compile the plugin for CUDA {oldest}: CUDA_MAJOR={oldest} make plugin"


def check_driver(driver: Driver, cuda: int, subject: str, remedy: str) -> None:
    """That a driver runs what was built for a major of CUDA.

    Args:
        driver: this machine's.
        cuda: major of CUDA.
        subject: what was built for it.
        remedy: another way than a newer driver.

    Raises:
        BackendUnavailableError: it is older.
    """
    if driver.cuda[0] >= cuda:
        return
    raise BackendUnavailableError(
        subject,
        expected=f"a driver of CUDA {cuda}, {oldest_driver(cuda)} or later",
        actual=driver.described,
        remedy=f"update the driver, or {remedy}",
    )


def check_release(driver: Driver, oldest: str, subject: str) -> None:
    """That a driver is of a release or later; one that does not say its release passes.

    Raises:
        BackendUnavailableError: it is older.
    """
    if driver.release and release_numbers(driver.release) < release_numbers(oldest):
        raise BackendUnavailableError(
            subject,
            expected=f"a driver of release {oldest} or later",
            actual=driver.described,
            remedy="update the driver",
        )
