"""The dependency direction of docs/design.md, section 4, each import in a fresh process."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NATIVE_SOURCES = {".h", ".hpp", ".c", ".cc", ".cpp", ".cu", ".cuh"}

ACCELERATORS = ("tensorrt", "tensorrt_lean", "tensorrt_rtx", "cuda", "pycuda", "cupy")
HEAVY = ("torch", "onnx", "onnxruntime", "onnxscript", "diffusers", "matplotlib")

FORBIDDEN = {
    "paro_trt": (*HEAVY, "numpy", "typer", "rich"),
    "paro_trt.cli.*": (*HEAVY, "numpy", "rich.progress"),
    "paro_trt.doctor.*": (*HEAVY, "numpy"),
    "paro_trt.op.*": (
        "diffusers", "onnx", "onnxruntime", "onnxscript", "matplotlib",
        "paro_trt.plan", "paro_trt.models", "paro_trt.families", "paro_trt.calibration",
        "paro_trt.onnx_export", "paro_trt.runtime", "paro_trt.verification",
    ),
    "paro_trt.plan.*": (
        *HEAVY, "paro_trt.models", "paro_trt.families", "paro_trt.calibration",
        "paro_trt.onnx_export", "paro_trt.runtime",
    ),
    "paro_trt.models.*": (
        "diffusers", "onnx", "onnxruntime", "paro_trt.calibration", "paro_trt.onnx_export",
        "paro_trt.runtime",
    ),
    "paro_trt.families.*": (
        "diffusers", "onnx", "onnxruntime", "paro_trt.models", "paro_trt.calibration",
        "paro_trt.onnx_export", "paro_trt.runtime",
    ),
    "paro_trt.calibration.*": (
        "diffusers", "onnx", "onnxruntime", "matplotlib", "paro_trt.onnx_export",
        "paro_trt.runtime",
    ),
    "paro_trt.runtime.*": (
        "diffusers", "onnx", "onnxruntime", "paro_trt.calibration", "paro_trt.onnx_export",
    ),
    "paro_trt.engine.*": (
        "torch", "diffusers", "onnx", "onnxruntime", "matplotlib", "paro_trt.models",
        "paro_trt.calibration", "paro_trt.onnx_export", "paro_trt.verification",
    ),
    "paro_trt.runtime.engine": HEAVY,
    "paro_trt.report.*": (
        *HEAVY, "paro_trt.models", "paro_trt.families", "paro_trt.calibration",
        "paro_trt.onnx_export", "paro_trt.engine", "paro_trt.runtime", "paro_trt.verification",
    ),
}  # fmt: skip
"""Module, or a package with all its modules -> what importing it must not bring in."""

_IMPORT = """
import importlib, json, pkgutil, sys
name, everything = sys.argv[1].removesuffix(".*"), sys.argv[1].endswith(".*")
package = importlib.import_module(name)
if everything:
    for entry in pkgutil.walk_packages(package.__path__, name + "."):
        importlib.import_module(entry.name)
print(json.dumps(sorted(sys.modules)))
"""

KERNEL_PARTS = ("kernels", "ptx", "emulator", "cpu", "include")
FOREIGN_HEADERS = {
    **dict.fromkeys(KERNEL_PARTS, re.compile(r"torch/|ATen/|c10/|NvInfer|tensorrt", re.I)),
    "tensorrt": re.compile(r"torch/|ATen/|c10/"),
}


@pytest.fixture(scope="module")
def imported() -> dict[str, list[str]]:
    """Modules in sys.modules after importing each key of FORBIDDEN, a process each."""
    loaded = {}
    for module in FORBIDDEN:
        done = subprocess.run(
            [sys.executable, "-c", _IMPORT, module],
            capture_output=True, text=True, cwd=ROOT, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"import {module}: {done.stderr}"
        loaded[module] = json.loads(done.stdout)
    return loaded


@pytest.mark.parametrize("module", FORBIDDEN)
def test_import_brings_in_nothing_it_should_not_know(
    module: str, imported: dict[str, list[str]]
) -> None:
    names = set(imported[module])
    assert not names.intersection((*FORBIDDEN[module], *ACCELERATORS))


def test_no_python_file_of_the_package_imports_an_accelerator_library() -> None:
    statement = re.compile(rf"^\s*(?:import|from)\s+(?:{'|'.join(ACCELERATORS)})\b", re.MULTILINE)
    files = list((ROOT / "paro_trt").rglob("*.py"))
    assert len(files) > 20
    assert [str(file) for file in files if statement.search(file.read_text())] == []


def test_package_does_not_import_samples_tests_or_export_scripts() -> None:
    statement = re.compile(r"^\s*(?:import|from)\s+(?:samples|tests|export)\b", re.MULTILINE)
    files = (ROOT / "paro_trt").rglob("*.py")
    assert [str(file) for file in files if statement.search(file.read_text())] == []


@pytest.mark.parametrize("part", FOREIGN_HEADERS)
def test_native_part_includes_no_foreign_header(part: str) -> None:
    folder = ROOT / "plugins" / part
    if not folder.is_dir():
        pytest.skip(f"plugins/{part} is not in this release")
    includes = {
        f"{file.relative_to(ROOT)}: {line.strip()}"
        for file in folder.rglob("*")
        if file.suffix in NATIVE_SOURCES
        for line in file.read_text().splitlines()
        if re.match(r"\s*#\s*include", line) and FOREIGN_HEADERS[part].search(line)
    }
    assert includes == set()
