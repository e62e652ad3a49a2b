"""What an engine takes of a GPU's memory: printed, recorded, and refused where it cannot be."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

from paro_trt.engine import BuildSettings, SizeRange
from paro_trt.engine.build import build_engine
from paro_trt.engine.estimate import estimate_memory, memory_of_file
from paro_trt.engine.gpu_memory import fits
from paro_trt.engine.manifest_file import parse_manifest
from paro_trt.engine.memory import builder_memory, plugin_workspace
from paro_trt.errors import ArgumentError, OnnxFileError
from paro_trt.onnx_file.source import read_source

MEBIBYTE = 1 << 20


@pytest.mark.long
def test_real_builder_s_figures_are_recorded_and_grow_with_the_batch(build_with_rtx, family_file):
    """As of TensorRT for RTX's own log; the plugin's workspace is a part of the activations."""
    one, four = (
        build_with_rtx(family_file("wan"), 89, sizes={"B": (1, 1, batch)}).manifest["memory"]
        for batch in (1, 4)
    )
    assert one["weights"] == pytest.approx(four["weights"], rel=0.01)
    assert one["weights"] > 500_000
    assert 3 * one["plugin_workspace"] < four["plugin_workspace"] < four["activations"]
    assert one["activations"] < four["activations"]


def test_builder_s_lines():
    lines = ["Total Host Persistent Memory: 80 bytes", "Total Activation Memory: 12 bytes"]
    assert builder_memory(lines).activations == (12,)
    assert builder_memory(lines).weights is None
    assert builder_memory([]).largest_activations is None
    # One line for each profile, in their order.
    several = [f"Total Activation Memory: {size} bytes" for size in (12, 30, 7)]
    assert builder_memory(several).activations == (12, 30, 7)
    assert builder_memory(several).largest_activations == 30


def test_gpus_that_hold_it():
    assert fits(0).startswith("GPUs from 12 GB")
    assert fits(22 * 10**9).startswith("GPUs from 24 GB")
    # CUDA and TensorRT take a part of the 24 GB themselves.
    assert fits(23_500 * 10**6).startswith("GPUs from 32 GB")
    assert fits(200 * 10**9).startswith("no single GPU")


@pytest.fixture
def wan(family_file):
    return read_source(family_file("wan"))


@pytest.fixture
def library(plugin_folder):
    return plugin_folder / "libparo_attention.so"


def workspace(library, source, options):
    return plugin_workspace(library, source.path, source.proto, options)


def settings(largest: int, **options: int) -> BuildSettings:
    return BuildSettings(sizes={"B": SizeRange(1, 1, largest)}, **options)


def test_workspace_below_the_plugin_s_need_is_refused_by_name(wan, library):
    needed = workspace(library, wan, settings(64))
    assert needed > 2 * MEBIBYTE
    with pytest.raises(ArgumentError, match=r"workspace: expected at least \d+ MiB.*got 1 MiB"):
        workspace(library, wan, settings(64, workspace=MEBIBYTE))
    assert workspace(library, wan, settings(64, workspace=needed)) == needed


def test_limit_takes_heads_in_groups(wan, library):
    limited = settings(64, max_workspace=MEBIBYTE, workspace=MEBIBYTE)
    assert workspace(library, wan, limited) <= MEBIBYTE


def test_sizes_that_are_not_in_the_file_are_missed_by_name(family_file, library, tmp_path):
    model = onnx.load(family_file("wan"))
    node = next(node for node in model.graph.node if node.op_type == "PAROAttention")
    kept = [entry for entry in model.graph.initializer if entry.name != node.input[5]]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    onnx.save(model, tmp_path / "cut.onnx")
    with pytest.raises(OnnxFileError, match=r"attn1/PAROAttention.*block_mask.* as constants"):
        workspace(library, read_source(tmp_path / "cut.onnx"), settings(1))


@pytest.mark.parametrize("limit", [0, 1000, MEBIBYTE + 1, 1 << 41])
def test_limits_that_are_no_whole_mebibytes(limit):
    with pytest.raises(ArgumentError, match="max_workspace: expected 1 to 1048576 MiB"):
        BuildSettings(max_workspace=limit)


@pytest.mark.usefixtures("newest")
def test_manifest_of_an_earlier_release_has_no_memory(half_onnx, tmp_path):
    manifest = build_engine(half_onnx, tmp_path / "a.engine").manifest
    assert manifest.memory is not None
    assert manifest.memory.plugin_workspace is not None
    document = manifest.to_json()
    del document["memory"]
    assert parse_manifest("a.json", json.dumps(document)).memory is None


def test_estimate_counts_what_lives_together():
    """A chain of tensors of known sizes, by hand: two live at a time, and views are no memory."""
    node = onnx.helper.make_node
    value = onnx.helper.make_tensor_value_info
    half = onnx.TensorProto.FLOAT16
    graph = onnx.helper.make_graph(
        [
            node("Relu", ["x"], ["a"]),
            node("Reshape", ["a", "flat"], ["b"]),
            node("Concat", ["b", "b", "b"], ["c"], axis=1),
            node("ReduceSum", ["c"], ["d"]),
            node("Add", ["d", "d"], ["y"]),
        ],
        "chain",
        [value("x", half, ["B", 10, 10])],
        [value("y", half, [1, 1])],
        [onnx.numpy_helper.from_array(np.array([-1, 100]), "flat")],
        value_info=[
            value("a", half, ["B", 10, 10]), value("b", half, ["B", 100]),
            value("c", half, ["3*B", 100]), value("d", half, [1, 1]),
        ],
    )  # fmt: skip
    model = onnx.helper.make_model(graph)
    found = estimate_memory(model, settings(4), None)
    assert found.weights == 16
    # With the margin for what a builder does otherwise.
    assert found.activations == round((4 * 100 * 2 + 12 * 100 * 2) * 4 / 3)
    assert estimate_memory(model, settings(4), 7).activations == found.activations + 7
    del graph.value_info[2]
    model.graph.CopyFrom(graph)
    assert estimate_memory(model, settings(4), None).activations is None


def test_estimate_of_a_family_s_file(family_file, plugin_folder, monkeypatch):
    monkeypatch.setenv("PARO_LIBRARY_DIR", str(plugin_folder))
    path = family_file("wan")
    one, four = (memory_of_file(path, settings(batch))[0] for batch in (1, 4))
    assert one.weights == four.weights > 500_000
    assert 3 * one.activations < four.activations < 5 * one.activations
    assert one.plugin_workspace < one.activations
    monkeypatch.setenv("PARO_LIBRARY_DIR", str(plugin_folder / "nowhere"))
    memory, said = memory_of_file(path, settings(1))
    assert (memory.plugin_workspace, "is not known" in said) == (None, True)
