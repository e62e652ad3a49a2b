"""The dependency direction of docs/design.md, section 4, each import in a fresh process."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.util import find_spec
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
    "paro_trt.pipelines.*": (
        "diffusers", "transformers", "imageio_ffmpeg", "PIL", "onnx", "onnxruntime", "matplotlib",
        "paro_trt.verification",
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


def imported_with(module: str) -> set[str]:
    """Modules in sys.modules after importing one, or a package with all of its, in a process."""
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT, module],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"import {module}: {done.stderr}"
    return set(json.loads(done.stdout))


def of_accelerators(names: set[str]) -> set[str]:
    return {name for name in names if name.partition(".")[0] in ACCELERATORS}


@pytest.fixture(scope="module")
def brought_by_torch() -> set[str]:
    """The accelerators' modules that torch imports where they are installed."""
    return of_accelerators(imported_with("torch"))


@pytest.mark.parametrize("module", FORBIDDEN)
def test_import_brings_in_nothing_it_should_not_know(
    module: str, brought_by_torch: set[str]
) -> None:
    names = imported_with(module)
    assert not names.intersection(FORBIDDEN[module])
    assert of_accelerators(names) <= (brought_by_torch if "torch" in names else set())


@pytest.mark.skipif(find_spec("cuda") is None, reason="cuda.core is not installed")
def test_cuda_core_is_more_than_torch_brings(brought_by_torch: set[str]) -> None:
    """Else the test above could not see the package import it."""
    assert "cuda.core" in imported_with("cuda.core")
    assert "cuda.core" not in brought_by_torch


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
