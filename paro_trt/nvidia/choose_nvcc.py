"""Chooses the nvcc that `make plugin` compiles with: python -m paro_trt.nvidia.choose_nvcc FILE...

Standard output is the chosen file, or nothing where the one from PyPI should be installed; the exit
status is 2 where the library would not run here. plugins/cmake/build_preset.sh asks it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence

from ..errors import BackendUnavailableError
from .driver import Driver, ask_driver
from .toolkits import OLDEST_NVCC, WHEEL_NVCC, check_driver, oldest_driver

DRIVER_CHECK_VARIABLE = "PARO_DRIVER_CHECK"
"""Environment variable: 0 builds for another machine, whatever the driver here."""


def choose_nvcc(candidates: Sequence[str], driver: Driver | None) -> tuple[str, tuple[int, int]]:
    """The first nvcc that is new enough, with its version; of those, one that the driver runs.

    Args:
        candidates: files, in order; those that are missing or too old are passed over.
        driver: of this machine; None where there is none, or the library is for another machine.

    Returns:
        The file and its version; an empty name means the one from PyPI.

    Raises:
        BackendUnavailableError: no library that the driver runs can be built.
    """
    found = [(file, version) for file in candidates if (version := nvcc_version(file))]
    for file, version in found:
        if version < OLDEST_NVCC:
            _say(f"{file} is of CUDA {_text(version)}, older than {_text(OLDEST_NVCC)}: not used")
    usable = [(file, version) for file, version in found if version >= OLDEST_NVCC]
    usable = usable or [("", WHEEL_NVCC)]
    if driver is None:
        return usable[0]
    for file, version in usable:
        if version[0] <= driver.cuda[0]:
            return file, version
    file, version = usable[0]
    check_driver(
        driver,
        version[0],
        file or f"nvcc {_text(version)} from PyPI",
        f"install the toolkit of CUDA {_text(OLDEST_NVCC)} or 12.9 and set CUDACXX to its nvcc, or "
        f"build for another machine: {DRIVER_CHECK_VARIABLE}=0",
    )
    return file, version


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
        file, version = choose_nvcc(candidates, driver)
    except BackendUnavailableError as error:
        print(f"make: {error}", file=sys.stderr)
        return 2
    if driver is None:
        _say(
            f"no driver is checked: the library will need one of CUDA {version[0]}, "
            f"{oldest_driver(version[0])} or later"
        )
    print(file)
    return 0


def _text(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def _say(message: str) -> None:
    print(f"nvcc: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
