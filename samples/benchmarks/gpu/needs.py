"""What the suite needs of a machine: found, or named with the remedy, before anything runs."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

OLDEST_NVCC = (12, 8)
MODULES = ("numpy", "torch", "pytest", "pytest_timeout", "xdist")
"""What the kernel tests and the benchmark import; nothing else of the package's needs."""

WITHOUT = "or leave it out: --skip {}"


@dataclass(frozen=True)
class Machine:
    """What is there.

    tools: paths by name. target: of the GPU, such as "90a". generator: CMake's, "" for its own
    choice. missing: a line each.
    """

    tools: dict[str, str]
    target: str
    generator: str
    missing: tuple[str, ...]


def examine(skipped: Sequence[str]) -> Machine:
    """Look for everything that the steps not skipped need."""
    tools, missing = {}, []
    wanted = [
        ("c++", _cxx(), "a C++20 compiler", "install g++ 11 or later"),
        ("cmake", shutil.which("cmake"), "3.24 or later on PATH", "install cmake"),
        (
            "nvcc",
            _cuda_tool("nvcc", "CUDACXX"),
            "12.8 or later",
            "install CUDA's toolkit, or set CUDACXX",
        ),
    ]
    if "sanitizer" not in skipped:
        remedy = f"install CUDA's toolkit, {WITHOUT.format('sanitizer')}"
        wanted.append(("compute-sanitizer", _cuda_tool("compute-sanitizer"), "on PATH", remedy))
    for name, path, expected, remedy in wanted:
        if path:
            tools[name] = path
        else:
            missing.append(f"{name}: expected {expected}, found none; {remedy}")
    # CMake's own choice is make.
    generator = "Ninja" if not shutil.which("make") and shutil.which("ninja") else ""
    if not (shutil.which("make") or generator):
        missing.append("make: expected it or ninja on PATH, found neither; install one")
    missing += _old_nvcc(tools.get("nvcc"))
    missing += [
        f"{name}: expected a module of {sys.executable}, found none; install it, or set PYTHON"
        for name in MODULES
        if importlib.util.find_spec(name) is None
    ]
    target, problem = _gpu()
    return Machine(tools, target, generator, (*missing, *problem))


def _cxx() -> str | None:
    return shutil.which(os.environ.get("CXX", "c++"))


def _cuda_tool(name: str, variable: str | None = None) -> str | None:
    """The variable's, the PATH's, the toolkit's, or that of wheels next to torch."""
    toolkit = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"), "bin", name)
    wheels = Path(sysconfig.get_path("purelib")).glob(f"nvidia/*/bin/{name}")
    given = os.environ.get(variable) if variable else None
    for path in (given, shutil.which(name), toolkit, *wheels):
        if path and os.access(path, os.X_OK):
            return str(path)
    return None


def _old_nvcc(nvcc: str | None) -> list[str]:
    if nvcc is None:
        return []
    found = re.search(r"release (\d+)\.(\d+)", said([nvcc, "--version"]))
    if found and tuple(map(int, found.groups())) >= OLDEST_NVCC:
        return []
    version = ".".join(found.groups()) if found else "no version"
    return [f"nvcc: expected 12.8 or later, {nvcc} says {version}; set CUDACXX to another"]


def _gpu() -> tuple[str, list[str]]:
    """Target of the first GPU ("" without) and what is wrong, if torch is there to say."""
    if importlib.util.find_spec("torch") is None:
        return "", []
    import torch

    if not torch.cuda.is_available():
        built = f"a torch for CUDA {torch.version.cuda}" if torch.version.cuda else "a CPU torch"
        remedy = "needs an NVIDIA GPU, its driver, and a torch built for CUDA"
        return "", [f"GPU: expected one that torch can use, got {built} that sees none; {remedy}"]
    major, minor = torch.cuda.get_device_capability(0)
    name = torch.cuda.get_device_name(0)
    if major < 8:
        return "", [f"GPU: expected sm_80 or later, got sm_{major}{minor} ({name})"]
    # Warpgroup instructions are of sm_90a alone.
    return f"{major}{minor}{'a' if (major, minor) == (9, 0) else ''}", []


def said(command: Sequence[str | Path]) -> str:
    """Standard output of a command; empty where it cannot be run or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout
