"""The quality benchmark: captures of a pretrained UNet, and videos of the included pipeline."""

from pathlib import Path

import onnx
import pytest
import torch

from paro_trt.errors import ArgumentError
from paro_trt.plan import Grid, TextLayout
from samples.benchmarks.quality.sources import LayerCall, Source, Split
from samples.benchmarks.quality.terrain import GRID as TERRAIN_GRID
from samples.benchmarks.quality.terrain import find_model, terrain_source
from samples.benchmarks.quality.videos import (
    load_videos,
    measure_videos,
)


def attention_model(path: Path) -> Path:
    """An ONNX file with the attention of the UNet over an input of its size."""
    make, floats = onnx.helper, onnx.TensorProto.FLOAT
    tokens = TERRAIN_GRID.tokens
    shapes = {"noisy": [1, 1, 128, 128], "sigma": [1], "difficulty": [1]}
    inputs = [make.make_tensor_value_info(name, floats, shape) for name, shape in shapes.items()]
    cut = onnx.numpy_helper.from_array(torch.tensor([2, 8, tokens]).numpy(), "cut")
    whole = onnx.numpy_helper.from_array(torch.tensor([1, 1, 128, 128]).numpy(), "whole")
    nodes = [
        make.make_node("Reshape", ["noisy", "cut"], ["query"]),
        make.make_node("Neg", ["query"], ["key"]),
        make.make_node("Abs", ["query"], ["value"]),
        make.make_node("Einsum", ["query", "key"], ["logits"], equation="bct,bcs->bts"),
        make.make_node("Softmax", ["logits"], ["weight"], axis=-1),
        make.make_node("Einsum", ["weight", "value"], ["output"], equation="bts,bcs->bct"),
        make.make_node("Reshape", ["output", "whole"], ["denoised"]),
    ]
    outputs = [make.make_tensor_value_info("denoised", floats, [1, 1, 128, 128])]
    graph = make.make_graph(nodes, "attention", inputs, outputs, [cut, whole])
    opset = [make.make_opsetid("", 18)]
    onnx.save(make.make_model(graph, opset_imports=opset, ir_version=10), path)
    return path


def test_a_unet_s_attention_is_tapped(tmp_path: Path) -> None:
    found = terrain_source(attention_model(tmp_path / "unet.onnx"))
    call = found.calls[Split.HELDOUT][0]
    assert call.query.shape == (TERRAIN_GRID.tokens, 2, 8)
    assert torch.equal(call.key, -call.query)
    assert torch.equal(call.value, call.query.abs())
    assert {call.half for call in found.calls[Split.CALIBRATION]} == {0, 1}


def test_a_missing_unet_is_one_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ArgumentError, match="pip install --no-deps"):
        find_model()


def test_videos_differ_by_what_is_not_attended(tmp_path: Path) -> None:
    grid = Grid(8, 16, 16)
    empty = torch.zeros(grid.tokens, 3, 64)
    call = LayerCall(0, 0, 0, empty, empty, empty, 1.0)
    source = Source("none", grid, TextLayout(), tuple(range(16)), {Split.CALIBRATION: [call]})
    path, name = tmp_path / "videos.json", "Sparse VideoGen"

    measure_videos(source, 1, path, [(name, 1.0), (name, 0.1)], steps=1)

    whole, part = load_videos(path)
    assert (whole.policy, whole.cost, whole.video) == (name, 1.0, 0)
    assert whole.psnr > 60 > 40 > part.psnr
    written = path.read_bytes()
    measure_videos(source, 1, path, [(name, 0.1)], steps=1)
    assert path.read_bytes() == written
