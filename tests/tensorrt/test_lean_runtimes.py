"""The real lean runtimes of TensorRT 10.16 and 11.4: one library serves both registries."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from paro_trt.engine.plugin_library import AUTOREG_LIBRARY, LIBRARY, MAX_WORKSPACE
from paro_trt.errors import BackendUnavailableError
from paro_trt.library_files import library_path
from paro_trt.op.c_abi import ABI_VERSION
from paro_trt.op.native import load_library
from paro_trt.op.spec import OP_TYPE, PLUGIN_NAMESPACE, op_attributes

from .environments import Package, probe, python_with
from .harness import host_build, run

LEAN = pytest.mark.parametrize("package", [Package.LEAN_10, Package.LEAN_11], ids=lambda p: p.name)

# Ways to load: c core by load_library, a autoreg by dlopen, d deregister the core.
LOADS = ["c", "a", "cc", "aa", "ac", "ca", "acac"]

CREATORS = [[OP_TYPE, "1", PLUGIN_NAMESPACE], [OP_TYPE, "2", PLUGIN_NAMESPACE]]

NODE = {
    "scale": ["FLOAT32", 0.25],
    "block_q": ["INT32", 128],
    "block_k": ["INT32", 64],
    "qk_bits": ["INT32", 8],
    "pv_bits": ["INT32", 4],
    "pool_dropped": ["INT32", 1],
}
ADDED = {
    "fine_summaries": ["INT32", 1], "mean_correction": ["INT32", 0], "routing": ["INT32", 1],
    "smoothing": ["INT32", 0],
}  # fmt: skip


@LEAN
@pytest.mark.parametrize("steps", LOADS)
def test_loading_in_any_way_leaves_one_creator_of_each_version(
    package: Package, steps: str
) -> None:
    build = host_build()
    done = probe(package, "lean_registry.py", build.library, build.autoreg, steps)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert found["tensorrt"] == package.value.split("==")[1]
    assert found["creators"] == CREATORS
    for version in (1, 2):
        assert found["fields"][str(version)] == {MAX_WORKSPACE: "PluginFieldType.INT32"} | {
            entry.name: f"PluginFieldType.{'FLOAT32' if entry.kind is float else 'INT32'}"
            for entry in op_attributes(version)
            if not entry.name.startswith("plugin_")
        }


@LEAN
@pytest.mark.parametrize("steps", ["cd", "cdc", "cda"])
def test_a_deregistered_library_does_not_come_back(package: Package, steps: str) -> None:
    """TensorRT keeps a library with several creators on its list, so that it loads none of them
    again. Nothing crashes, and what can complain does."""
    build = host_build()
    done = probe(package, "lean_registry.py", build.library, build.autoreg, steps)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["creators"] == []
    assert ("expected the only PAROAttention plugin" in done.stderr) is steps.endswith("a")


@LEAN
@pytest.mark.parametrize("steps", ["b", "bac"])
def test_autoreg_before_tensorrt(
    package: Package, steps: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Polygraphy opens it: it takes TensorRT from the loader's path, which Python's bindings
    then find there. The lean library takes the place of the full one, under its name."""
    (lean,) = (
        python_with(package)
        .parents[1]
        .glob("lib/python*/site-packages/*_libs/libnvinfer_lean.so.*")
    )
    (tmp_path / lean.name.replace("_lean", "")).symlink_to(lean)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    build = host_build()
    done = probe(package, "lean_registry.py", build.library, build.autoreg, steps)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    creators = json.loads(done.stdout)["creators"]
    assert creators == CREATORS


@LEAN
def test_the_library_that_make_plugin_builds(package: Package) -> None:
    try:
        core, autoreg = map(library_path, (LIBRARY, AUTOREG_LIBRARY))
    except BackendUnavailableError:
        pytest.skip("make plugin has not been run")
    done = probe(package, "lean_registry.py", core, autoreg, "acac")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["creators"]
    assert found == CREATORS


def create(
    package: Package, phase: str, version: str = "1", **changes: list
) -> tuple[dict | None, str]:
    """What the creator makes of the node's fields after some changes, and what it says."""
    fields = NODE | (ADDED if version == "2" else {}) | changes
    request = json.dumps([{"phase": phase, "version": version, "fields": fields}])
    done = probe(package, "lean_plugin.py", host_build().library, request)
    assert done.returncode == 0, done.stderr
    (plugin,) = json.loads(done.stdout)
    return plugin, done.stderr


@LEAN
@pytest.mark.parametrize("phase", ["BUILD", "RUNTIME"])
@pytest.mark.parametrize("version", ["1", "2"])
def test_creator_makes_a_plugin_of_fields(package: Package, phase: str, version: str) -> None:
    library = host_build().library
    kernels = load_library(library).name
    build_id = re.findall(r"Build ID: (\w{16})", run("readelf", "-n", library))[0]
    stored = {"kernel_library": ["CHAR", f"{kernels}\0"]} if phase == "RUNTIME" else {}
    plugin, said = create(package, phase, version, **stored)
    assert said == ""
    assert plugin == {
        "kinds": [
            ["PLUGIN", 1],
            ["PLUGIN_V3ONE_CORE", 1],
            ["PLUGIN_V3ONE_BUILD", 1],
            ["PLUGIN_V3ONE_RUNTIME", 1],
        ],
        "names": [OP_TYPE, version, PLUGIN_NAMESPACE],
        "outputs": 1,
        "timing_cache_id": "scale=0x1p-2 block_q=128 block_k=64 qk_bits=8 pv_bits=4 "
        f"pool_dropped=1 max_workspace_mib=0 kernels={kernels}/{ABI_VERSION}/{build_id}"
        + (" fine_summaries=1 mean_correction=0 routing=1 smoothing=0" if version == "2" else ""),
        "format_combination_limit": 100,
    }


@LEAN
@pytest.mark.parametrize(
    ("phase", "changes", "words"),
    [
        ("BUILD", {"block_q": ["INT32", 100]}, ["block_q", "64 or 128", "100"]),
        ("BUILD", {"qk_bits": ["INT64", 8]}, ["qk_bits", "INT32", "INT64"]),
        ("BUILD", {"window": ["INT32", 8]}, ["window"]),
        ("BUILD", {"routing": ["INT32", 1]}, ["routing", "expected scale"]),
        ("RUNTIME", {"kernel_library": ["CHAR", "paro-cuda 9.9.9"]}, ["build the engine again"]),
    ],
)
def test_refusals_come_back_as_none(
    package: Package, phase: str, changes: dict, words: list[str]
) -> None:
    plugin, said = create(package, phase, **changes)
    assert plugin is None
    assert said.startswith("[paro] error: PAROAttention: ")
    assert said.count("\n") == 1
    assert all(word in said for word in words), said


@LEAN
def test_two_plugins_of_one_name_are_told_apart(package: Package, tmp_path: Path) -> None:
    build = host_build()
    shutil.copy(build.library, tmp_path)
    other = shutil.copy(build.autoreg, tmp_path)
    done = probe(package, "lean_registry.py", build.library, other, "ca")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["creators"] == CREATORS
    assert "expected the only PAROAttention plugin" in done.stderr


@LEAN
def test_autoreg_without_its_core_says_so(package: Package, tmp_path: Path) -> None:
    build = host_build()
    alone = shutil.copy(build.autoreg, tmp_path)
    done = probe(package, "lean_registry.py", build.library, alone, "a")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["creators"] == []
    assert "expected it next to the autoreg library" in done.stderr
