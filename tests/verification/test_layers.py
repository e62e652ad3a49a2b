"""Chosen layers of a file against its checkpoint and plan, without running anything."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
import torch
from typer.testing import CliRunner

from paro_trt.cli.app import app
from paro_trt.errors import ArgumentError, ModelError
from paro_trt.models.load import load_model
from paro_trt.onnx_export import Body, export_onnx
from paro_trt.plan import save_plan
from paro_trt.verification.layers import verify_layers
from tests.support.tiny import variants_of

TINY = variants_of("wan")[0]
LAYERS = ("blocks.0.attn1", "blocks.1.attn1")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bfloat16 file, its model and its plan."""
    path = tmp_path_factory.mktemp("layers")
    TINY.build(4).save_pretrained(path / "model", max_shard_size="200KB")
    loaded = load_model(path / "model", torch.bfloat16, weights_in_files=True)
    save_plan(TINY.plan(), path / "plan")
    export_onnx(loaded, TINY.plan(), path / "m.onnx", body=Body.NONE, external_data=True)
    return path


def test_equal_layers_and_one_that_differs(directory: Path, tmp_path: Path) -> None:
    checks = verify_layers(directory / "m.onnx", directory / "model", TINY.plan(), LAYERS)
    assert [check.name for check in checks] == list(LAYERS)
    assert all(check.ok and check.weights > 10 for check in checks)

    for name in ("m.onnx", "m.onnx.data"):
        (tmp_path / name).write_bytes((directory / name).read_bytes())
    weight = "blocks.1.ffn.net.2.weight"
    model = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    entry = next(t for t in model.graph.initializer if t.name == f"model.{weight}")
    place = int({pair.key: pair.value for pair in entry.external_data}["offset"])
    with (tmp_path / "m.onnx.data").open("r+b") as file:
        file.seek(place)
        first = file.read(1)[0]
        file.seek(place)
        file.write(bytes([first ^ 1]))
    same, other = verify_layers(tmp_path / "m.onnx", directory / "model", None, LAYERS)
    assert same.ok
    assert other.different == (weight,)


def test_another_model_plan_or_name_is_refused(directory: Path, tmp_path: Path) -> None:
    file, model = directory / "m.onnx", directory / "model"
    with pytest.raises(ArgumentError, match=r"one of blocks\.0\.attn1"):
        verify_layers(file, model, None, ["blocks.7.attn1"])
    with pytest.raises(ModelError, match="plan"):
        verify_layers(file, model, TINY.plan(seed=9), LAYERS)
    other = variants_of("wan")[1]
    other.build().save_pretrained(tmp_path / "other")
    with pytest.raises(ModelError, match="model"):
        verify_layers(file, tmp_path / "other", None, LAYERS)


def test_by_the_command_line(directory: Path) -> None:
    words = ["verify", directory / "m.onnx", "--model", directory / "model", "--plan",
             directory / "plan", "--layer", LAYERS[1], "--json"]  # fmt: skip
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["ok"] is True
    assert document["layers"][0]["name"] == LAYERS[1]
