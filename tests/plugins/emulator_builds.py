"""Builds of the C++ emulator tests, one a variant, made once and kept under build/."""

from __future__ import annotations

import functools
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = ROOT / "plugins"

# What CMake is told beside the common options.
VARIANTS: dict[str, list[str]] = {
    "plain": [],
    "ucontext": ["-DPARO_EMULATOR_UCONTEXT=ON"],
    "sanitizers": ["-DPARO_SANITIZE=address,undefined"],
    "ucontext-sanitizers": [
        "-DPARO_EMULATOR_UCONTEXT=ON",
        "-DPARO_SANITIZE=address,undefined",
    ],
}

# Every combination of late landing and a schedule, as environment variables.
MODES: dict[str, dict[str, str]] = {
    "early": {},
    "late": {"PARO_EMULATOR_LATE": "1"},
    "seeded": {"PARO_EMULATOR_SEED": "11"},
    "late-seeded": {"PARO_EMULATOR_LATE": "1", "PARO_EMULATOR_SEED": "12"},
}


def run(command: list[str | Path], env: dict[str, str] | None = None) -> str:
    """Standard output; the test fails with all output where the command fails."""
    result = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, env=env, timeout=540
    )
    if result.returncode != 0:
        tail = (result.stdout + result.stderr)[-6000:]
        pytest.fail(f"{' '.join(map(str, command))} ended with {result.returncode}:\n{tail}")
    return result.stdout


def require(*tools: str) -> None:
    """Skip the test where one of the tools is missing."""
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not on the PATH")


@functools.cache
def build(variant: str) -> Path:
    """The build folder of a variant, with everything in it up to date."""
    folder = ROOT / "build" / f"emulator-{variant}"
    configure: list[str | Path] = ["cmake", "-S", PLUGINS, "-B", folder]
    if shutil.which("ninja") and not (folder / "Makefile").exists():
        configure += ["-G", "Ninja"]
    # Some optimisation: emulated matrix products are most of the time. No debug information: it
    # doubles the time of the build.
    configure += ["-DCMAKE_CXX_COMPILER=g++", "-DCMAKE_BUILD_TYPE=Test"]
    configure += ["-DCMAKE_CXX_FLAGS_TEST=-O1", "-DPARO_BUILD_TESTS=ON", "-DPARO_BUILD_CPU=OFF"]
    run([*configure, *VARIANTS[variant]])
    run(["cmake", "--build", folder, "--parallel", "2"])
    return folder


def require_build(variant: str) -> Path:
    """`build`, or a skip where the tools for it are missing."""
    require("cmake", "g++")
    return build(variant)
