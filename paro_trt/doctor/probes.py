"""Probes of a machine. What could crash a process is loaded in another one."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

CPU_FEATURES = (
    "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8",
    "asimddp", "i8mm", "bf16",
)  # fmt: skip
"""Linux's names of the instruction sets that CPU attention gains from (x86, then Arm)."""

_PROBE_SECONDS = 120
_TOOL_SECONDS = 20

_IMPORT_PROBE = """
import importlib, json, sys
failed = {}
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except Exception as error:
        failed[name] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
print(json.dumps(failed))
"""


@dataclass(frozen=True)
class Component:
    """One thing that a machine has or lacks.

    Args:
        name: such as "onnxruntime".
        present: whether it is here and loads.
        detail: its version, or what is wrong with it.
        purpose: what it is for.
        remedy: the command that fixes its absence; empty if there is none or no need.
    """

    name: str
    present: bool
    detail: str
    purpose: str
    remedy: str = ""


def python_component() -> Component:
    """This interpreter."""
    present = sys.version_info >= (3, 10)
    return Component("python", present, platform.python_version(), "everything", "install 3.10+")


def packages(purposes: dict[str, str]) -> tuple[Component, ...]:
    """Python packages by import name, each imported once in one fresh process.

    A broken native library ends that process, not this one.
    """
    failed = failed_imports(tuple(purposes))
    return tuple(_package(name, purpose, failed) for name, purpose in purposes.items())


def unloaded_package(name: str, purpose: str, distribution: str | None = None) -> Component:
    """A package that is looked for and never imported."""
    if importlib.util.find_spec(name) is None:
        return Component(name, False, "not installed", purpose)
    return Component(name, True, _version(distribution or name), purpose)


def is_installed(name: str) -> bool:
    """Whether a module, such as "cuda.core", can be found; it is not imported."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def in_process(code: str, *arguments: str) -> tuple[bool, str]:
    """Run Python code in a fresh process: whether it ended well, and the last line it said."""
    try:
        done = _python(code, *arguments)
    except subprocess.TimeoutExpired:
        return False, f"took over {_PROBE_SECONDS} s"
    ended_well = done.returncode == 0
    lines = (done.stdout if ended_well else done.stderr).strip().splitlines()
    return ended_well, lines[-1] if lines else f"ended Python with status {done.returncode}"


def cpu_facts() -> dict[str, object]:
    """Processor, usable cores and instruction sets."""
    text = _read("/proc/cpuinfo")
    fields = [line.partition(":") for line in text.splitlines()]
    values = {name.strip(): value.strip() for name, _, value in reversed(fields)}
    flags = set(values.get("flags", values.get("Features", "")).split())
    return {
        "cpu": values.get("model name") or platform.processor() or platform.machine(),
        "cores": _usable_cores(),
        "features": [feature for feature in CPU_FEATURES if feature in flags],
    }


def memory_facts() -> dict[str, object]:
    """Bytes of memory in all and available; empty where the system does not tell."""
    names = {"MemTotal": "memory_bytes", "MemAvailable": "memory_available_bytes"}
    fields = [line.split() for line in _read("/proc/meminfo").splitlines()]
    return {
        names[field[0].rstrip(":")]: int(field[1]) * 1024
        for field in fields
        if field and field[0].rstrip(":") in names
    }


def tool(name: str, purpose: str, remedy: str) -> Component:
    """A program on PATH, with the last line that speaks of its version."""
    path = shutil.which(name)
    if path is None:
        return Component(name, False, "not on PATH", purpose, remedy)
    lines = _output(name, "--version").strip().splitlines()
    versions = [line for line in lines if re.search(r"version|release", line, re.IGNORECASE)]
    return Component(name, True, (versions or lines or [path])[-1], purpose)


def _package(name: str, purpose: str, failed: dict[str, str]) -> Component:
    remedy = f"{Path(sys.executable).name} -m pip install {name}"
    if importlib.util.find_spec(name) is None:
        return Component(name, False, "not installed", purpose, remedy)
    if name in failed:
        broken = f"{remedy} --force-reinstall"
        return Component(name, False, f"does not load: {failed[name]}", purpose, broken)
    return Component(name, True, _version(name), purpose)


def failed_imports(names: Sequence[str]) -> dict[str, str]:
    """Import each name in one fresh process: those that fail, with the reason."""
    present = [name for name in names if importlib.util.find_spec(name) is not None]
    try:
        done = _python(_IMPORT_PROBE, *present)
        failed: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return dict.fromkeys(present, f"importing took over {_PROBE_SECONDS} s")
    except (IndexError, ValueError):
        return dict.fromkeys(present, f"importing ended Python with status {done.returncode}")
    return failed


def _python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False
    )


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "unknown version"


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _output(*command: str) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TOOL_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
