"""Whole models: what the file computes, what it says of itself, and that it is whole or absent."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from paro_trt.errors import ArgumentError, ModelError, OnnxFileError, ParoError
from paro_trt.models.apply import ParoTransformer, geometry_of
from paro_trt.models.load import LoadedModel, load_model
from paro_trt.onnx_export import Body, check_export, export_onnx, exporter
from paro_trt.onnx_file.describe import describe_onnx
from paro_trt.plan import ParoPlan
from paro_trt.runtime.onnxruntime_session import OrtSession
from paro_trt.runtime.velocity import session_velocity
from tests.support.model_kit import assert_overall_as_exact
from tests.support.plans import small_plan
from tests.support.stagewise import StagewiseComparison, assert_equal_sums
from tests.support.tiny_wan import tiny_wan, tiny_wan_inputs


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    directory = tmp_path_factory.mktemp("model")
    tiny_wan(seed=5).save_pretrained(directory)
    return load_model(directory)


@pytest.fixture(scope="module")
def plan(loaded: LoadedModel) -> ParoPlan:
    return small_plan(model=loaded.identity, pool_dropped=True, qk_bits=8, pv_bits=16)


@pytest.fixture(scope="module")
def exported(loaded: LoadedModel, plan: ParoPlan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "tiny.onnx"
    report = export_onnx(loaded, plan, path)
    assert report.path == path
    assert report.layers == ("blocks.0.attn1", "blocks.1.attn1")
    return path


@pytest.fixture(scope="module")
def dense(loaded: LoadedModel, plan: ParoPlan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dense") / "dense.onnx"
    export_onnx(loaded, plan, path, dense_baseline=True, external_data=True)
    return path


@pytest.fixture(scope="module")
def half(loaded: LoadedModel, plan: ParoPlan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("half") / "half.onnx"
    export_onnx(load_model(loaded.path, torch.float16), plan, path, body=Body.DENSE)
    return path


def test_file_computes_what_the_planned_model_does(
    exported: Path, loaded: LoadedModel, plan: ParoPlan, tmp_path: Path, fresh_seed: int
) -> None:
    planned = ParoTransformer(loaded.model, loaded.family, plan)
    with StagewiseComparison(exported, planned, tmp_path / "exposed.onnx") as comparison:
        for batch in (1, 3):
            comparison.check(*tiny_wan_inputs(batch, fresh_seed))


def test_baseline_computes_what_the_model_does(
    dense: Path, loaded: LoadedModel, plan: ParoPlan, fresh_seed: int
) -> None:
    inputs = tiny_wan_inputs(2, fresh_seed)
    expected = loaded.velocity(geometry_of(plan))(*inputs)
    with OrtSession(dense, threads=1) as session:
        assert_equal_sums("the output", session_velocity(session)(*inputs), expected)
    assert describe_onnx(dense)["paro_attention"] == []
    assert (dense.parent / "dense.onnx.data").stat().st_size > 0


@pytest.mark.long
def test_half_precision_file_is_as_exact_as_half_precision(
    half: Path, loaded: LoadedModel, plan: ParoPlan, fresh_seed: int
) -> None:
    inputs = tiny_wan_inputs(2, fresh_seed)
    expected, faithful = (
        ParoTransformer(model.model, model.family, plan).velocity(*inputs)
        for model in (loaded, load_model(loaded.path, torch.float16))
    )
    with OrtSession(half, threads=1) as session:
        assert {spec.dtype for spec in session.outputs} == {"float16"}
        actual = session_velocity(session)(*inputs)
    assert_overall_as_exact(actual, faithful, expected)


def test_file_describes_itself(exported: Path, loaded: LoadedModel, plan: ParoPlan) -> None:
    document = json.loads(json.dumps(describe_onnx(exported)))
    assert [entry["name"] for entry in document["inputs"]] == [
        "hidden_states", "timestep", "encoder_hidden_states", "mask_bin",
    ]  # fmt: skip
    assert document["inputs"][0]["shape"] == ["B", 4, 2, 16, 16]
    assert document["outputs"][0]["shape"] == ["B", 4, 2, 16, 16]
    assert document["body"] == "sparse"
    assert document["metadata"]["paro.plan_hash"] == plan.content_hash()
    assert document["metadata"]["paro.config_hash"] == loaded.identity.config_hash
    for node, layer in zip(document["paro_attention"], plan.layers, strict=True):
        densities = [[head.density[t] for head in layer.heads] for t in range(plan.bins)]
        assert node["density"] == pytest.approx([np.mean(row) for row in densities])


def test_file_holds_one_token_order_and_no_paths_of_this_machine(exported: Path) -> None:
    model = onnx.load(exported)
    orders = {node.input[3] for node in model.graph.node if node.op_type == "PAROAttention"}
    assert len(orders) == 1
    assert str(Path.cwd()).encode() not in exported.read_bytes()
    assert b"site-packages" not in exported.read_bytes()


def _drop_function(model: onnx.ModelProto) -> None:
    del model.functions[:]


def _change_bits(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "PAROAttention")
    next(entry for entry in node.attribute if entry.name == "qk_bits").i = 16


def _forget_namespace(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "PAROAttention")
    entry = next(entry for entry in node.attribute if entry.name == "plugin_namespace")
    node.attribute.remove(entry)


def _flip_mask_bit(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "PAROAttention")
    mask = next(entry for entry in model.graph.initializer if entry.name == node.input[5])
    words = onnx.numpy_helper.to_array(mask).copy()
    words.flat[0] ^= 1
    mask.CopyFrom(onnx.numpy_helper.from_array(words, mask.name))


def _rename_layer(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "PAROAttention")
    node.name = "elsewhere"


def _fix_batch(model: onnx.ModelProto) -> None:
    """Of mask_bin: an edit that shape inference alone does not refuse."""
    value = next(value for value in model.graph.input if value.name == "timestep")
    value.type.tensor_type.shape.dim[0].dim_value = 1


@pytest.mark.parametrize(
    "spoil",
    [_drop_function, _change_bits, _forget_namespace, _flip_mask_bit, _rename_layer, _fix_batch],
)
def test_check_notices(
    exported: Path, plan: ParoPlan, tmp_path: Path, spoil: Callable[[onnx.ModelProto], None]
) -> None:
    model = onnx.load(exported)
    spoil(model)
    path = tmp_path / "spoiled.onnx"
    onnx.save(model, path)
    with pytest.raises(OnnxFileError):
        check_export(path, plan, Body.SPARSE)


def test_check_notices_another_body(exported: Path, plan: ParoPlan) -> None:
    with pytest.raises(OnnxFileError, match="body"):
        check_export(exported, plan, Body.DENSE)


@pytest.mark.parametrize("reason", [KeyboardInterrupt(), OSError(28, "No space left on device")])
@pytest.mark.parametrize("stage", ["save", "publish"])
def test_nothing_is_left_behind(
    exported: Path,
    loaded: LoadedModel,
    plan: ParoPlan,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    reason: BaseException,
    stage: str,
) -> None:
    import onnx_ir

    def fail(*_: object, **__: object) -> None:
        raise reason

    model = onnx_ir.serde.deserialize_model(_without_function(onnx.load(exported)))
    monkeypatch.setattr(exporter, "_traced", lambda *_: model)
    monkeypatch.setattr(exporter, "_name_nodes", lambda *_: None)
    monkeypatch.setattr(exporter, stage, fail)
    path = tmp_path / "kept.onnx"
    path.write_bytes(b"the file of yesterday")
    expected = KeyboardInterrupt if isinstance(reason, KeyboardInterrupt) else ParoError
    with pytest.raises(expected):
        export_onnx(loaded, plan, path)
    assert path.read_bytes() == b"the file of yesterday"
    assert [entry.name for entry in tmp_path.iterdir()] == ["kept.onnx"]


def _without_function(model: onnx.ModelProto) -> onnx.ModelProto:
    del model.functions[:]
    return model


@pytest.mark.parametrize("opset", [17, 26])
def test_unsupported_opset_is_refused(
    loaded: LoadedModel, plan: ParoPlan, tmp_path: Path, opset: int
) -> None:
    with pytest.raises(ArgumentError, match="18 to 25"):
        export_onnx(loaded, plan, tmp_path / "x.onnx", opset=opset)


@pytest.mark.parametrize("dense_baseline", [False, True])
def test_plan_of_another_model_is_refused(
    loaded: LoadedModel, tmp_path: Path, dense_baseline: bool
) -> None:
    with pytest.raises(ModelError):
        export_onnx(loaded, small_plan(), tmp_path / "x.onnx", dense_baseline=dense_baseline)
    assert list(tmp_path.iterdir()) == []


def test_missing_directory_is_named(loaded: LoadedModel, plan: ParoPlan, tmp_path: Path) -> None:
    with pytest.raises(ParoError, match="nowhere"):
        export_onnx(loaded, plan, tmp_path / "nowhere" / "x.onnx")


@pytest.mark.parametrize("keep", [0, 10, 1000, 20000])
def test_truncated_file_is_one_clear_error(exported: Path, tmp_path: Path, keep: int) -> None:
    path = tmp_path / "cut.onnx"
    path.write_bytes(exported.read_bytes()[:keep])
    with pytest.raises(OnnxFileError):
        describe_onnx(path)


def test_mask_of_a_wrong_rank_is_one_clear_error(exported: Path, tmp_path: Path) -> None:
    model = onnx.load(exported)
    node = next(node for node in model.graph.node if node.op_type == "PAROAttention")
    mask = next(entry for entry in model.graph.initializer if entry.name == node.input[5])
    mask.CopyFrom(onnx.numpy_helper.from_array(np.zeros(3, np.int32), mask.name))
    path = tmp_path / "odd.onnx"
    onnx.save(model, path)
    with pytest.raises(OnnxFileError, match="PAROAttention"):
        describe_onnx(path)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [(("inspect", "model"), (), "encoder_hidden_states"), (("run",), ("--onnxrt",), "PASSED")],
    ids=["inspect", "run"],
)
def test_polygraphy_reads_and_runs_the_file(
    before: tuple[str, ...], after: tuple[str, ...], expected: str, exported: Path
) -> None:
    program = Path(sys.executable).parent / "polygraphy"
    command = [program, *before, exported, *after]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert expected in done.stdout
