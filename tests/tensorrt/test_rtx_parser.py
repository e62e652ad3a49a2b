"""TensorRT-for-RTX: its parser on an exported model, with the plugin and without."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from paro_trt.onnx_export import Body, export_onnx
from paro_trt.op.spec import INPUTS, OP_TYPE
from paro_trt.plan import ParoPlan
from tests.support.tiny import variants_of

from .environments import Package, probe, python_with
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
    python_with(Package.RTX)  # skips before the work
    plan = TINY.plan(density=0.3, pool_dropped=True)
    layers = tuple(
        replace(layer, qk_bits=qk, pv_bits=pv)
        for layer, (qk, pv) in zip(plan.layers, BITS, strict=True)
    )
    plan = replace(plan, layers=layers)
    path = tmp_path_factory.mktemp("rtx") / "tiny.onnx"
    export_onnx(TINY.loaded(0, torch.float16), plan, path, body=Body.DENSE)
    return Exported(path, plan)


def single_node_files(
    exported: Exported, folder: Path, change: Callable[[onnx.NodeProto], None] = lambda _: None
) -> list[Path]:
    """One file for each PAROAttention of the export, without the function; what is no initializer
    becomes an input. The parser gives up at its first node without a plugin."""
    graph = onnx.load(exported.path).graph
    weights = {weight.name: weight for weight in graph.initializer}
    paths = []
    for index, node in enumerate(n for n in graph.node if n.op_type == OP_TYPE):
        inputs = [
            helper.make_tensor_value_info(
                name,
                TensorProto.INT32 if "int32" in entry.dtypes else TensorProto.FLOAT16,
                ["B"]
                if len(entry.shape) == 1
                else ["B", exported.plan.tokens, len(exported.plan.layers[0].heads), 64],
            )
            for name, entry in zip(node.input, INPUTS, strict=True)
            if name not in weights
        ]
        change(node)
        output = helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT16, None)
        own = [weights[name] for name in dict.fromkeys(node.input) if name in weights]
        model = helper.make_model(
            helper.make_graph([node], "single", inputs, [output], own),
            opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("paro", 1)],
            ir_version=10,
        )
        paths.append(folder / f"node-{index}.onnx")
        onnx.save(model, paths[-1])
    return paths


def recorded_calls(files: list[Path]) -> tuple[list[dict], str]:
    done = probe(Package.RTX, "rtx_fields.py", host_build().library, *files)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_parser_passes_exactly_the_fields_of_the_plan(exported: Exported, tmp_path: Path) -> None:
    calls, said = recorded_calls(single_node_files(exported, tmp_path))
    assert said == ""
    assert calls == [
        {
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


def test_creator_refuses_what_the_parser_truncates(exported: Exported, tmp_path: Path) -> None:
    def too_wide(node: onnx.NodeProto) -> None:
        (entry,) = (e for e in node.attribute if e.name == "block_q")
        entry.i = 2**32 + 100

    calls, said = recorded_calls(single_node_files(exported, tmp_path, too_wide)[:1])
    assert calls[0]["fields"]["block_q"] == ["INT32", 1, [100]]
    assert not calls[0]["accepted"]
    assert "block_q: expected 64 or 128, got 100" in said


def test_parser_takes_the_plugin_for_the_whole_file(exported: Exported) -> None:
    done = probe(Package.RTX, "rtx_parse.py", host_build().library, exported.path)
    assert f"Successfully created plugin: {OP_TYPE}" in done.stderr + done.stdout
    assert "[paro] error" not in done.stderr


def test_autoreg_leaves_a_registry_alone_that_it_does_not_know() -> None:
    load = f"import ctypes, tensorrt_rtx; ctypes.CDLL({str(host_build().autoreg)!r})"
    said = run(python_with(Package.RTX), "-c", load)
    assert "expected TensorRT 10 or 11, found version 10701; not registered there" in said


@pytest.mark.long
def test_without_the_plugin_the_dense_body_becomes_engines(exported: Exported) -> None:
    done = probe(Package.RTX, "rtx_build.py", exported.path, "89", "120")
    assert done.returncode == 0, done.stderr
    sizes = json.loads(done.stdout)
    weights = sum(len(w.raw_data) for w in onnx.load(exported.path).graph.initializer)
    assert set(sizes) == {"89", "120"}
    assert min(sizes.values()) > weights / 2
