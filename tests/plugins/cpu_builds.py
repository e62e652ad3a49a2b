"""Builds of the CPU backend and of the programs in plugins/cpu/tests, apart from the package's."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

PLUGINS = Path(__file__).parents[2] / "plugins"


def run(*words: object, **environment: str) -> str:
    """What a command prints; it must succeed."""
    done = subprocess.run(
        [str(word) for word in words],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(directory: Path, *programs: str, **settings: str) -> Path:
    """Build programs paro_cpu_<name> of plugins/cpu/tests, and return their directory."""
    choices = {
        "CMAKE_BUILD_TYPE": "Release",
        "PARO_BUILD_TESTS": "ON",
        "PARO_BUILD_EMULATOR": "OFF",
        "PARO_BUILD_ONNXRUNTIME": "OFF",
        "PARO_BUILD_TENSORRT": "OFF",
        **settings,
    }
    options = [f"-D{name}={value}" for name, value in choices.items()]
    run("cmake", "-S", PLUGINS, "-B", directory, *options)
    run("cmake", "--build", directory, "--target", *(f"paro_cpu_{name}" for name in programs))
    return directory / "cpu"
