"""The C++ tests of the emulator: their builds, modes and runs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.native_builds import plugins_build

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
    """The folder of a variant's build with what the tests run."""
    return plugins_build(variant, "emulator_tests", "emulator_mutants", "conformance_emulator")
