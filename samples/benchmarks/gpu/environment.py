"""What was measured with: environment.json next to the results."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from .needs import Machine, said

FILE = "environment.json"
GPU_FACTS = (
    "name", "driver_version", "compute_cap", "memory.total", "clocks.sm", "clocks.max.sm",
    "clocks.mem", "clocks.max.mem", "power.limit", "temperature.gpu", "ecc.mode.current",
)  # fmt: skip
PACKAGES = ("torch", "triton", "numpy", "nvidia-cudnn-cu13", "sageattention")
SOURCES = ("paro_trt", "plugins", "samples/benchmarks/gpu")
SUFFIXES = {".py", ".cuh", ".cu", ".cpp", ".h", ".cmake", ".txt", ".sh"}


def write(folder: Path, root: Path, machine: Machine, arguments: Sequence[str]) -> None:
    """Write the file; what the machine does not tell is empty."""
    content = {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC"),
        "command": " ".join(["samples/benchmarks/gpu_suite.sh", *arguments]),
        "git": git_version(root),
        "source_sha256": source_digest(root),
        "gpu": gpu_facts(),
        "target": machine.target,
        "nvcc": said([machine.tools["nvcc"], "--version"]).splitlines()[-2:],
        "compiler": said([machine.tools["c++"], "--version"]).splitlines()[:1],
        "python": sys.version.split()[0],
        "packages": package_versions(),
        "system": platform.platform(),
        "processor": processor(),
    }
    (folder / FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def git_version(root: Path) -> str:
    """Commit, with "-dirty" where files differ from it; "none" outside a repository."""
    return (
        said(["git", "-C", root, "describe", "--always", "--dirty", "--abbrev=40"]).strip()
        or "none"
    )


def source_digest(root: Path) -> str:
    """Of the sources that the numbers depend on: a copy without its history has one too."""
    digest = hashlib.sha256()
    for folder in SOURCES:
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in SUFFIXES and path.is_file():
                digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def gpu_facts() -> dict[str, str]:
    """The first GPU's, as nvidia-smi gives them."""
    query = ["nvidia-smi", "--id=0", f"--query-gpu={','.join(GPU_FACTS)}", "--format=csv,noheader"]
    values = [value.strip() for value in said(query).strip().split(",")]
    return dict(zip(GPU_FACTS, values, strict=True)) if len(values) == len(GPU_FACTS) else {}


def package_versions() -> dict[str, str]:
    """Of the packages that are installed."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def processor() -> str:
    """Name and number of cores."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.machine()
