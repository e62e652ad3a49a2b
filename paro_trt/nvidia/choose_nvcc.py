"""Chooses the nvcc that `make plugin` compiles with: python -m paro_trt.nvidia.choose_nvcc FILE...

Standard output is what plugins/cmake/build_preset.sh does next, a `Choice`; the exit status is 2
where the library would not run here.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from ..errors import ArgumentError, BackendUnavailableError
from .driver import Driver, ask_driver
from .toolkits import CUDA_DRIVERS, OLDEST_NVCC, WHEEL_NVCC, check_driver, oldest_driver

DRIVER_CHECK_VARIABLE = "PARO_DRIVER_CHECK"
"""Environment variable: 0 builds for another machine, whatever the driver here."""

MAJOR_VARIABLE = "CUDA_MAJOR"
"""Environment variable: 12 or 13, the CUDA to compile for; default: what the driver here runs."""


class Action(Enum):
    """What to do before compiling.

    USE: nothing, the file compiles.
    ASSEMBLE: make a toolkit for CUDA 12 around the file, an nvcc of CUDA 13.
    INSTALL: install nvcc from PyPI, and ask again.
    """

    USE = "use"
    ASSEMBLE = "assemble"
    INSTALL = "install"


@dataclass(frozen=True)
class Choice:
    """An action, the nvcc that it needs ("" to install), and the CUDA that is compiled for."""

    action: Action
    file: str
    cuda: int

    def __str__(self) -> str:
        return f"{self.action.value} {self.file}".strip()


def choose_nvcc(
    candidates: Sequence[str], driver: Driver | None, major: int | None = None
) -> Choice:
    """The first nvcc that is new enough and whose libraries the driver runs.

    Args:
        candidates: files, in order; those that are missing or too old are passed over.
        driver: of this machine; None where there is none, or the library is for another machine.
        major: of the CUDA to compile for; None: any that the driver runs.

    Raises:
        BackendUnavailableError: no library that the driver runs can be built.
        ArgumentError: no library of this CUDA can be built.
    """
    oldest, newest = min(CUDA_DRIVERS), max(CUDA_DRIVERS)
    if major is not None and major not in CUDA_DRIVERS:
        raise ArgumentError(
            MAJOR_VARIABLE,
            expected=f"{oldest} or {newest}",
            actual=str(major),
            remedy=f"leave it out for the CUDA of the driver here, or set {newest}",
        )
    if driver is not None:
        check_driver(
            driver,
            major or oldest,
            f"a plugin of CUDA {major or oldest}",
            f"build for another machine: {DRIVER_CHECK_VARIABLE}=0",
        )
    found = [(file, version) for file in candidates if (version := nvcc_version(file))]
    for file, version in found:
        if version < OLDEST_NVCC:
            _say(f"{file} is of CUDA {_text(version)}, older than {_text(OLDEST_NVCC)}: not used")
    usable = [(file, version) for file, version in found if version >= OLDEST_NVCC]
    for file, version in usable:
        if (major is None or version[0] == major) and _runs(driver, version[0]):
            return Choice(Action.USE, file, version[0])
    is_for_older = major == oldest or not _runs(driver, newest)
    if not is_for_older:
        return Choice(Action.INSTALL, "", WHEEL_NVCC[0])
    for file, version in usable:
        if version == WHEEL_NVCC:  # what the toolkit for CUDA 12 was tried with
            return Choice(Action.ASSEMBLE, file, oldest)
    return Choice(Action.INSTALL, "", oldest)


def _runs(driver: Driver | None, major: int) -> bool:
    return driver is None or major <= driver.cuda[0]


def nvcc_version(file: str) -> tuple[int, int] | None:
    """Version of an nvcc; None where the file is no nvcc that runs."""
    if not (os.path.isfile(file) and os.access(file, os.X_OK)):
        return None
    try:
        done = subprocess.run(
            [file, "--version"], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    release = re.search(r"release (\d+)\.(\d+)", done.stdout)
    return None if release is None else (int(release[1]), int(release[2]))


def main(candidates: Sequence[str]) -> int:
    """Print the choice; the exit status."""
    driver = None
    if os.environ.get(DRIVER_CHECK_VARIABLE) != "0":
        try:
            driver = ask_driver()
        except BackendUnavailableError:
            driver = None  # built for another machine
    try:
        choice = choose_nvcc(candidates, driver, _wanted_major())
    except (ArgumentError, BackendUnavailableError) as error:
        print(f"make: {error}", file=sys.stderr)
        return 2
    if driver is None:
        _say(
            f"no driver is checked: the library will need one of CUDA {choice.cuda}, "
            f"{oldest_driver(choice.cuda)} or later"
        )
    print(choice)
    return 0


def _wanted_major() -> int | None:
    """Raises ArgumentError where the variable is no number."""
    text = os.environ.get(MAJOR_VARIABLE, "")
    if text and not text.isdecimal():
        raise ArgumentError(
            MAJOR_VARIABLE, expected="12 or 13", actual=repr(text), remedy="leave it out"
        )
    return int(text) if text else None


def _text(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def _say(message: str) -> None:
    print(f"nvcc: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
