"""CMake builds of plugins/ that tests share, one a variant, made once under build/ and kept.

Targets are always named: a build could make everything, and emulated kernels alone take minutes.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PLUGINS = ROOT / "plugins"

# -Og: with -O1 the kernels run 1.25 times as fast and take 1.7 times as long to compile, which is
# most of the time. No debug information: it doubles the time of the build. Of the CPU backend,
# which the wheel has whole, one instruction set.
_OPTIONS = (
    "-DCMAKE_CXX_COMPILER=g++", "-DCMAKE_BUILD_TYPE=Test", "-DCMAKE_CXX_FLAGS_TEST=-Og",
    "-DPARO_BUILD_TESTS=ON", "-DPARO_BUILD_EMULATOR=ON",
    "-DPARO_BUILD_TENSORRT_HOST=ON", "-DPARO_TRT_ABI_SHIM=ON", "-DPARO_CPU_GENERIC_ONLY=ON",
)  # fmt: skip

# -O1 last: with the CPU backend's own -O3 sanitizers take ten times as long to compile.
_SANITIZED = (
    "-DPARO_SANITIZE=address,undefined",
    "-DCMAKE_CXX_COMPILE_OBJECT=<CMAKE_CXX_COMPILER> <DEFINES> <INCLUDES> <FLAGS> -O1"
    " -o <OBJECT> -c <SOURCE>",
)
_UCONTEXT = ("-DPARO_EMULATOR_UCONTEXT=ON",)

_VARIANTS = {
    "plain": (),
    "sanitizers": _SANITIZED,
    "ucontext": _UCONTEXT,
    "ucontext-sanitizers": (*_UCONTEXT, *_SANITIZED),
}


def require(*tools: str) -> None:
    """Skip the test where one of the tools is missing."""
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not on the PATH")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time makes a folder, also where tests run in several."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{folder}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@functools.cache
def plugins_build(variant: str, *targets: str) -> Path:
    """The folder of a variant's build with the targets up to date; skips where tools are missing.

    Args:
        variant: "plain"; "sanitizers", ASan and UBSan; or "ucontext", the emulator's way to switch
            threads where it has no assembly for it, plain or with "-sanitizers".
    """
    require("cmake", "g++", "ninja")
    folder = ROOT / "build" / f"plugins-{variant}"
    with locked(folder):
        _run("cmake", "-S", PLUGINS, "-B", folder, "-G", "Ninja", *_OPTIONS, *_VARIANTS[variant])
        _run("cmake", "--build", folder, "--parallel", "2", "--target", *targets)
    return folder


def _run(*words: str | Path) -> None:
    command = list(map(str, words))
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=580
    )
    if done.returncode != 0:
        pytest.fail(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-6000:]}")
