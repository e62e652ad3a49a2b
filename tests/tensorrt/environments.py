"""Virtual environments with real TensorRT packages, made once and kept under build/.

Each package gets its own, apart from the tests': the lean runtimes of both majors have one module
name. TensorRT for RTX is in the tests' own. A probe that crashes must not take the tests with it.
"""

from __future__ import annotations

import functools
import importlib.util
import subprocess
import sys
from enum import Enum
from pathlib import Path

import pytest

from tests.native_builds import ROOT, locked

PROBES = Path(__file__).parent / "probes"


class Package(str, Enum):
    """Parts of TensorRT that pip installs without NVIDIA's own download, pinned."""

    LEAN_10 = "tensorrt-lean-cu12==10.16.1.11"
    LEAN_11 = "tensorrt-lean-cu13==11.4.0.106"


def rtx_python() -> Path:
    """The tests' own interpreter, which has TensorRT for RTX; skips where it has not."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("tensorrt_rtx is not installed: pip install -e '.[dev]'")
    return Path(sys.executable)


def rtx_probe(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a script of probes/ in a process with TensorRT for RTX."""
    return _run(rtx_python(), script, *arguments)


def python_with(package: Package) -> Path:
    """The interpreter of an environment with the package; skips where it cannot be installed."""
    reason = _why_not_installed(package)
    if reason:
        pytest.skip(f"{package.value} cannot be installed here: {reason}")
    return _folder(package) / "bin" / "python"


def probe(package: Package, script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a script of probes/ in the package's environment; its status is the caller's to judge."""
    return _run(python_with(package), script, *arguments)


def _run(python: Path, script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    words = [python, PROBES / script, *arguments]
    return subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=300)


@functools.cache
def tritonclient_folder() -> Path:
    """A folder for PYTHONPATH with tritonclient; skips where it cannot be installed.

    Its protobuf is older than onnx's here: what imports it needs a process of its own.
    """
    folder = ROOT / "build" / "venvs" / "tritonclient"
    ready = folder / ".installed"
    with locked(folder):
        if not ready.exists():
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--retries", "1"]
            options = ["--no-compile", "--upgrade", "--target", str(folder)]
            words = [*pip, *options, "tritonclient[grpc]"]
            done = subprocess.run(words, capture_output=True, text=True, timeout=500)
            if done.returncode != 0:
                pytest.skip("tritonclient[grpc] cannot be installed here")
            ready.touch()
    return folder


def _folder(package: Package) -> Path:
    return ROOT / "build" / "venvs" / package.value.replace("==", "-")


@functools.cache
def _why_not_installed(package: Package) -> str:
    """Install it; the reason where that fails, else nothing. Asked once in a run."""
    folder = _folder(package)
    ready = folder / ".installed"
    pip = [folder / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "install"]
    options = ["--quiet", "--no-compile", "--retries", "1", "--timeout", "10"]
    with locked(folder):
        if ready.exists():
            return ""
        for words in (
            [sys.executable, "-m", "venv", "--clear", folder],
            [*pip, *options, package.value, "numpy"],
        ):
            done = subprocess.run(
                list(map(str, words)), capture_output=True, text=True, timeout=500
            )
            if done.returncode != 0:
                return (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        ready.touch()
    return ""
