"""The driver, and whether it fits the GPU, TensorRT, cuda-python and the plugin that are here."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterable

from ..errors import BackendUnavailableError
from ..nvidia.driver import Driver, DriverGpu
from ..nvidia.toolkits import (
    OLDEST_SM,
    TENSORRT,
    TensorRtReleases,
    built_for,
    check_driver,
    check_release,
    plugin_remedy,
    release_numbers,
)
from .probes import Component, in_process

_PROBE = """
import json, sys
from dataclasses import asdict
from paro_trt.errors import ParoError
from paro_trt.nvidia.driver import ask_driver
try:
    print(json.dumps(asdict(ask_driver())))
except ParoError as error:
    sys.exit(error.actual)
"""


def find_driver() -> tuple[Driver | None, str]:
    """This machine's driver, asked in a process of its own, or why there is none."""
    found, said = in_process(_PROBE)
    if not found:
        return None, said
    told = json.loads(said)
    gpus = tuple(DriverGpu(**gpu) for gpu in told["gpus"])
    return Driver(tuple(told["cuda"]), told["release"], gpus, told["failure"]), ""


def components(driver: Driver | None, why_not: str) -> tuple[Component, ...]:
    """The driver and its GPUs."""
    if driver is None:
        install = "install NVIDIA's driver; in a container: docker run --gpus all"
        return (
            Component("driver", False, why_not, "running on a GPU", install),
            Component("GPU", False, "none found", "building and running", _NO_GPU),
        )
    gpus = ", ".join(f"{gpu.name} (SM {gpu.sm})" for gpu in driver.gpus)
    none = f"none found{driver.failure and f': {driver.failure}'}"
    return (
        Component("driver", True, driver.described, "running on a GPU"),
        Component("GPU", bool(gpus), gpus or none, "building and running", "" if gpus else _NO_GPU),
    )


_NO_GPU = f"run on a machine with an NVIDIA GPU, SM {OLDEST_SM} or later, and its driver"


def mismatches(driver: Driver | None, parts: Iterable[Component]) -> tuple[str, ...]:
    """What is here and does not go together: one line each with name, expected, got and fix."""
    if driver is None:
        return ()
    present = {part.name: part.detail for part in parts if part.present}
    found: list[str] = []
    for gpu in driver.gpus:
        if gpu.sm < OLDEST_SM:
            found.append(
                f"{gpu.name}: expected SM {OLDEST_SM} or later, which the kernels are for, got SM "
                f"{gpu.sm}; fix: {_NO_GPU}"
            )
    checks = (
        *(_tensorrt(driver, row, present[row.module]) for row in _installed_rows(present)),
        _bindings(driver, present.get("cuda.bindings")),
        _plugin(driver, present.get("libparo_attention")),
    )
    return (*found, *(line for line in checks if line))


def _installed_rows(present: dict[str, str]) -> Iterable[TensorRtReleases]:
    """The row of each TensorRT that is here."""
    for row in TENSORRT:
        version = release_numbers(present.get(row.module, ""))
        if version and row.contains(version):
            yield row


def _tensorrt(driver: Driver, row: TensorRtReleases, version: str) -> str:
    cuda = _wheel_cuda(row)
    if cuda is None:
        return ""  # not from a wheel: it may have been built for either
    try:
        subject = f"{row.package} {version} of CUDA {cuda}"
        other = f"pip install {row.package}-cu{driver.cuda[0]}"
        remedy = other if driver.cuda[0] in row.drivers else "use the other TensorRT"
        check_driver(driver, cuda, subject, remedy)
        check_release(driver, row.drivers[cuda], subject)
    except BackendUnavailableError as error:
        return str(error)
    return ""


def _wheel_cuda(row: TensorRtReleases) -> int | None:
    """Major of CUDA of the installed wheel."""
    for cuda in row.drivers:
        try:
            importlib.metadata.version(f"{row.package}-cu{cuda}")
        except importlib.metadata.PackageNotFoundError:
            continue
        return cuda
    return None


def _bindings(driver: Driver, version: str | None) -> str:
    """cuda-python follows the driver: that of CUDA 13 is not supported on drivers before 580."""
    cuda = release_numbers(version or "")
    if not cuda:
        return ""
    try:
        remedy = f"pip install 'cuda-bindings<{driver.cuda[0] + 1}'"
        check_driver(driver, cuda[0], f"cuda-bindings {version}", remedy)
    except BackendUnavailableError as error:
        return str(error)
    return ""


def _plugin(driver: Driver, detail: str | None) -> str:
    cuda = built_for(detail or "")
    if cuda is None:
        return ""
    try:
        check_driver(driver, cuda, f"libparo_attention of CUDA {cuda}", plugin_remedy())
    except BackendUnavailableError as error:
        return str(error)
    return ""
