"""Builds of the C++ emulator tests, one a variant, made once and kept under build/."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.native_builds import cmake_build

# What CMake is told beside the common options.
VARIANTS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "ucontext": ("-DPARO_EMULATOR_UCONTEXT=ON",),
    "sanitizers": ("-DPARO_SANITIZE=address,undefined",),
    "ucontext-sanitizers": ("-DPARO_EMULATOR_UCONTEXT=ON", "-DPARO_SANITIZE=address,undefined"),
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


def require_build(variant: str) -> Path:
    """The folder of a variant's build; skips where the tools for it are missing."""
    options = ("-DPARO_BUILD_TESTS=ON", "-DPARO_BUILD_CPU=OFF", "-DPARO_BUILD_TENSORRT=OFF")
    targets = ("emulator_tests", "emulator_mutants", "conformance_emulator")
    return cmake_build(f"emulator-{variant}", (*options, *VARIANTS[variant]), targets)
