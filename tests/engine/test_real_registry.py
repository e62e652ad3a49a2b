"""The plugin loaded by this package into the registries of real TensorRT runtimes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.tensorrt.environments import Package, python_with
from tests.tensorrt.harness import host_build

LOAD = """
import ctypes, sys
from pathlib import Path
import tensorrt_lean
from paro_trt.engine.plugin_library import describe_plugin, load_plugin
how, core, autoreg, other = sys.argv[1:]
if how == "dlopen first":
    kept = ctypes.CDLL(autoreg)
if how == "another library":
    tensorrt_lean.get_plugin_registry().load_library(other)
plugin = describe_plugin(Path(core))
try:
    load_plugin(tensorrt_lean, plugin)
    load_plugin(tensorrt_lean, plugin)
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
found = [entry for entry in tensorrt_lean.get_plugin_registry().all_creators]
print([entry.name for entry in found].count("PAROAttention"), plugin.name)
"""


@pytest.mark.parametrize(
    "package",
    [pytest.param(Package.LEAN_10, marks=pytest.mark.long), Package.LEAN_11],
    ids=lambda p: p.name,
)
@pytest.mark.parametrize("how", ["load_library", "dlopen first", "another library"])
def test_load_plugin(package, how, tmp_path):
    (site,) = python_with(package).parents[1].glob("lib/python*/site-packages")
    for entry in site.glob("tensorrt_lean*"):
        (tmp_path / entry.name).symlink_to(entry)
    build = host_build()
    other = tmp_path / "libother.so"
    other.write_bytes(build.library.read_bytes())
    done = subprocess.run(
        [sys.executable, "-c", LOAD, how, build.library, build.autoreg, other],
        capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    if how == "another library":
        assert "EngineError: plugin PAROAttention: " in done.stderr
        assert "load only one of the two libraries" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("2 paro-cpu")


START = """
import sys
import tensorrt_lean
from paro_trt.engine.load import deserialize
from paro_trt.engine.tensorrt_api import Flavour, TensorRt
try:
    deserialize(
        TensorRt(Flavour.TENSORRT, tensorrt_lean.__version__, tensorrt_lean), "a", b"no engine" * 9
    )
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


@pytest.mark.parametrize("package", [Package.LEAN_10, Package.LEAN_11], ids=lambda p: p.name)
def test_real_runtime_refuses_by_an_error(package, tmp_path):
    """Without a GPU TensorRT does not start. With one, it refuses a file that is no engine."""
    (site,) = python_with(package).parents[1].glob("lib/python*/site-packages")
    for entry in site.glob("tensorrt_lean*"):
        (tmp_path / entry.name).symlink_to(entry)
    done = subprocess.run(
        [sys.executable, "-c", START], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 1, done.returncode
    assert done.stderr.startswith(("BackendUnavailableError: ", "EngineError: "))
