"""The parts that building and running TensorRT engines needs, and the command that fixes each."""

from __future__ import annotations

import os
import re
from pathlib import Path

from . import probes
from .probes import Component

RUNTIME_PARTS = ("tensorrt", "cuda.core", "cuda.bindings", "driver", "GPU", "libparo_attention")
"""Without one of them no engine with the plugin is built or run."""

RTX_PARTS = ("tensorrt_rtx", "libparo_attention")
"""Enough to build an engine; running it takes cuda.core and a GPU too."""

HEADER_FOLDERS = ("/usr/include", "/usr/include/x86_64-linux-gnu", "/usr/local/tensorrt/include")
VERSION_HEADER = "NvInferVersion.h"

_VERSION_PROBE = """
import importlib, sys
try:
    print(importlib.import_module(sys.argv[1]).__version__)
except Exception as error:
    sys.exit(f"does not load: {' '.join(str(error).split())[:160]}")
"""


_LOADER_PROBE = """
import ctypes, sys
for name in ("libnvinfer.so.11", "libnvinfer.so.10"):
    try:
        ctypes.CDLL(name)
    except OSError:
        continue
    sys.exit(print(name))
sys.exit("not on the loader's path")
"""


def components() -> tuple[Component, ...]:
    """Every part of the way to engines but the plugin and the driver; packages load in processes of
    their own."""
    return (
        _package("tensorrt", "engines with the plugin", "pip install tensorrt"),
        _package("tensorrt_rtx", "engines for GeForce and RTX GPUs", "pip install tensorrt-rtx"),
        _on_loader_path(),
        _package("cuda.core", "running engines", "pip install cuda-core cuda-bindings"),
        _package("cuda.bindings", "cuda.core's calls of the driver", "pip install cuda-bindings"),
        _headers(),
        probes.tool("trtexec", "building engines from the shell", "install the TensorRT SDK"),
    )


def _package(name: str, purpose: str, remedy: str) -> Component:
    if not probes.is_installed(name):
        return Component(name, False, "not installed", purpose, remedy)
    found, detail = probes.in_process(_VERSION_PROBE, name)
    return Component(name, found, detail, purpose, "" if found else f"{remedy} --force-reinstall")


def _on_loader_path() -> Component:
    """TensorRT's library on the loader's path; pip installs it elsewhere."""
    found, detail = probes.in_process(_LOADER_PROBE)
    folder = "$(python -c 'import tensorrt_libs; print(tensorrt_libs.__path__[0])')"
    remedy = "" if found else f"export LD_LIBRARY_PATH={folder}"
    return Component("libnvinfer", found, detail, "Polygraphy --plugins", remedy)


def _headers() -> Component:
    purpose = "compiling plugin and C++ runner against the SDK"
    root = os.environ.get("TENSORRT_ROOT")
    folders = [Path(root, "include")] if root else [Path(folder) for folder in HEADER_FOLDERS]
    for folder in folders:
        version = _header_version(folder / VERSION_HEADER)
        if version:
            return Component("TensorRT headers", True, f"{version} in {folder}", purpose)
    remedy = "set TENSORRT_ROOT to an SDK; the plugin also builds with -DPARO_TRT_ABI_SHIM=ON"
    where = f"no {VERSION_HEADER} in {folders[0]}" if root else "not found"
    return Component("TensorRT headers", False, where, purpose, remedy)


def _header_version(path: Path) -> str:
    """Such as "10.13"; 11 spells its number by way of other macros."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    defines: dict[str, str] = dict(re.findall(r"^#define\s+(\w+)\s+(\w+)", text, re.MULTILINE))
    numbers: list[str] = []
    for name in ("NV_TENSORRT_MAJOR", "NV_TENSORRT_MINOR"):
        value = defines.get(name, "")
        numbers.append(defines.get(value, value))
    return ".".join(numbers) if all(number.isdecimal() for number in numbers) else ""
