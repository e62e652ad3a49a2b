"""TensorRT-for-RTX: its parser on an exported model, with the plugin and without."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
import pytest
import torch
from onnx import helper

from paro_trt.onnx_export import Body, export_onnx
from paro_trt.op.spec import OP_TYPE, VERSION_2_ATTRIBUTES, VERSION_2_INPUTS
from paro_trt.plan import ParoPlan
from tests.native_builds import require
from tests.support.tiny import variants_of

from .environments import rtx_probe, rtx_python
from .harness import host_build, run

TINY = variants_of("wan")[0]
BITS = ((8, 16), (8, 4))
"""Of query-key and probability-value products, one pair a layer."""


@dataclass(frozen=True)
class Exported:
    """The model's file and the plan in it."""

    path: Path
    plan: ParoPlan


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """In FP16, with a random plan whose layers differ, and the dense body."""
    rtx_python()  # skips before the work
    plan = TINY.plan(density=0.3, pool_dropped=True)
    layers = tuple(
        replace(layer, qk_bits=qk, pv_bits=pv)
        for layer, (qk, pv) in zip(plan.layers, BITS, strict=True)
    )
    plan = replace(plan, layers=layers)
    path = tmp_path_factory.mktemp("rtx") / "tiny.onnx"
    export_onnx(TINY.loaded(0, torch.float16), plan, path, body=Body.DENSE)
    return Exported(path, plan)


@pytest.fixture(scope="module")
def exported_2(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The same of version 2: the first layer uses all of it, the second nothing."""
    rtx_python()  # skips before the work
    plan = TINY.plan(
        density=0.3, pool_dropped=True, fine=0.5, corrected=(0,), dynamic=1, qk_bits=4, rotated=(0,)
    )
    first, *others = plan.layers
    unused = dict.fromkeys(entry.name for entry in VERSION_2_INPUTS)
    plan = replace(plan, layers=(first, *(replace(layer, **unused) for layer in others)))
    path = tmp_path_factory.mktemp("rtx") / "tiny.onnx"
    export_onnx(TINY.loaded(0, torch.float16), plan, path, body=Body.DENSE)
    return Exported(path, plan)


def recorded_calls(path: Path) -> tuple[dict, str]:
    """What the probe recorded; TensorRT's own log is on the lines before."""
    done = rtx_probe("rtx_fields.py", host_build().library, path)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_parser_passes_exactly_the_fields_of_the_plan(exported: Exported) -> None:
    found, said = recorded_calls(exported.path)
    assert said == ""
    assert found["parsed"]
    assert found["calls"] == [
        {
            "version": "1",
            "phase": "BUILD",
            "accepted": True,
            "fields": {
                # The model's own factor on the logits, 1/sqrt(64).
                "scale": ["FLOAT32", 1, [0.125]],
                "block_q": ["INT32", 1, [exported.plan.block_q]],
                "block_k": ["INT32", 1, [exported.plan.block_k]],
                "qk_bits": ["INT32", 1, [layer.qk_bits]],
                "pv_bits": ["INT32", 1, [layer.pv_bits]],
                "pool_dropped": ["INT32", 1, [1]],
            },
        }
        for layer in exported.plan.layers
    ]


def test_parser_asks_the_creator_of_version_2(exported_2: Exported) -> None:
    found, said = recorded_calls(exported_2.path)
    assert said == ""
    assert found["parsed"]
    assert [(call["version"], call["accepted"]) for call in found["calls"]] == [("2", True)] * len(
        exported_2.plan.layers
    )
    names = [entry.name for entry in VERSION_2_ATTRIBUTES]
    used = [[call["fields"][name] for name in names] for call in found["calls"]]
    assert used[0] == [["INT32", 1, [1]]] * 4
    assert used[1] == [["INT32", 1, [0]]] * 4


def changed(exported: Exported, path: Path, name: str, value: int) -> Path:
    """The file with an attribute of its first layer set, or added."""
    model = onnx.load(exported.path)
    node = next(node for node in model.graph.node if node.op_type == OP_TYPE)
    kept = [entry for entry in node.attribute if entry.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])
    onnx.save(model, path)
    return path


def test_creator_refuses_what_the_parser_truncates(exported: Exported, tmp_path: Path) -> None:
    wide = changed(exported, tmp_path / "wide.onnx", "block_q", 2**32 + 100)
    found, said = recorded_calls(wide)
    assert not found["parsed"]
    assert found["calls"][0]["fields"]["block_q"] == ["INT32", 1, [100]]
    assert not found["calls"][0]["accepted"]
    assert "block_q: expected 64 or 128, got 100" in said


def test_limit_of_the_workspace_reaches_the_creator(exported: Exported, tmp_path: Path) -> None:
    found, _ = recorded_calls(changed(exported, tmp_path / "a.onnx", "max_workspace_mib", 7))
    assert found["calls"][0]["fields"]["max_workspace_mib"] == ["INT32", 1, [7]]
    assert found["calls"][0]["accepted"]
    found, said = recorded_calls(changed(exported, tmp_path / "b.onnx", "max_workspace_mib", -1))
    assert not found["calls"][0]["accepted"]
    assert "max_workspace_mib: expected 0 to 1048576 MiB, got -1" in said


AUTOREG = """
import ctypes, sys, tensorrt_rtx
ctypes.CDLL(sys.argv[1])
print([entry.name for entry in tensorrt_rtx.get_plugin_registry().all_creators])
"""


def test_autoreg_registers_with_it() -> None:
    said = run(rtx_python(), "-c", AUTOREG, host_build().autoreg)
    assert said.count(OP_TYPE) == 2  # of both versions
    assert "error" not in said


UNKNOWN = """
static void* slots[1];
static void** registry = slots;
void* getPluginRegistry(void) { return &registry; }
int getInferLibVersion(void) { return %d; }
"""


@pytest.mark.parametrize("version", [90300, 120000, 10800])
def test_autoreg_leaves_a_registry_alone_that_it_does_not_know(
    version: int, tmp_path: Path
) -> None:
    require("gcc")
    source, library = tmp_path / "unknown.c", tmp_path / "libunknown.so"
    source.write_text(UNKNOWN % version)
    run("gcc", "-shared", "-fPIC", source, "-o", library)
    load = (
        f"import ctypes; ctypes.CDLL({str(library)!r}); ctypes.CDLL({str(host_build().autoreg)!r})"
    )
    said = run(sys.executable, "-c", load)
    assert f"expected TensorRT 10, 11 or RTX 1.7, found version {version}" in said
    assert "not registered there" in said


@pytest.mark.long
@pytest.mark.parametrize("version", ["exported", "exported_2"])
def test_without_the_plugin_the_dense_body_becomes_engines(
    version: str, request: pytest.FixtureRequest
) -> None:
    exported = request.getfixturevalue(version)
    done = rtx_probe("rtx_build.py", exported.path, "89", "120")
    assert done.returncode == 0, done.stderr
    sizes = json.loads(done.stdout)
    weights = sum(len(w.raw_data) for w in onnx.load(exported.path).graph.initializer)
    assert set(sizes) == {"89", "120"}
    assert min(sizes.values()) > weights / 2
