"""Models with plans of version 2: the file, what it computes, and what checking it notices."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from paro_trt.errors import OnnxFileError
from paro_trt.models.apply import ParoTransformer
from paro_trt.models.load import LoadedModel, load_model
from paro_trt.onnx_export import Body, check_export, export_onnx
from paro_trt.onnx_export.bodies import Features, attention_function
from paro_trt.onnx_file.describe import describe_onnx
from paro_trt.onnx_file.source import read_source
from paro_trt.op.spec import DOMAIN, op_inputs
from paro_trt.plan import ParoPlan
from tests.support.plans import small_plan
from tests.support.stagewise import StagewiseComparison
from tests.support.tiny_wan import tiny_wan, tiny_wan_inputs


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    directory = tmp_path_factory.mktemp("model")
    tiny_wan(seed=5).save_pretrained(directory)
    return load_model(directory)


@pytest.fixture(scope="module")
def plan(loaded: LoadedModel) -> ParoPlan:
    return small_plan(
        model=loaded.identity, pool_dropped=True, qk_bits=4, pv_bits=16, fine=0.5, corrected=(1,),
        rotated=(0,),
    )  # fmt: skip


@pytest.fixture(scope="module")
def exported(loaded: LoadedModel, plan: ParoPlan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "tiny.onnx"
    export_onnx(loaded, plan, path)
    return path


def test_file_computes_what_the_planned_model_does(
    exported: Path, loaded: LoadedModel, plan: ParoPlan, tmp_path: Path, fresh_seed: int
) -> None:
    planned = ParoTransformer(loaded.model, loaded.family, plan)
    with StagewiseComparison(exported, planned, tmp_path / "exposed.onnx") as comparison:
        comparison.check(*tiny_wan_inputs(3, fresh_seed))


def test_file_is_of_version_2(exported: Path, plan: ParoPlan) -> None:
    document = json.loads(json.dumps(describe_onnx(exported)))
    assert document["opsets"][DOMAIN] == 2
    for node, layer in zip(document["paro_attention"], plan.layers, strict=True):
        attributes = node["attributes"]
        assert attributes["plugin_version"] == "2"
        assert [attributes[name] for name in Features._fields] == [1, 1, 0, 1]
        blocks = node["density"][0] and layer.block_mask[0].size / layer.block_mask.shape[-1] * 2
        assert node["fine"] == pytest.approx(layer.fine_blocks().sum(axis=1) / blocks)
        assert node["corrected_heads"] == [0, 1]
        assert node["rotated_heads"] == [1, 0]
        assert "dynamic_blocks" not in node
    assert len(read_source(exported).attention) == len(plan.layers)


def _node(model: onnx.ModelProto) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.op_type == "PAROAttention")


def _set(model: onnx.ModelProto, name: str, value: int | bytes) -> None:
    entry = next(entry for entry in _node(model).attribute if entry.name == name)
    if isinstance(value, bytes):
        entry.s = value
    else:
        entry.i = value


def _flip_bit(input_name: str) -> Callable[[onnx.ModelProto], None]:
    """Change the first number of a constant input."""

    def spoil(model: onnx.ModelProto) -> None:
        place = [entry.name for entry in op_inputs(2)].index(input_name)
        name = _node(model).input[place]
        tensor = next(entry for entry in model.graph.initializer if entry.name == name)
        words = onnx.numpy_helper.to_array(tensor).copy()
        words.flat[0] ^= 1
        tensor.CopyFrom(onnx.numpy_helper.from_array(words, tensor.name))

    return spoil


def _drop_inputs(model: onnx.ModelProto) -> None:
    del _node(model).input[10:]


def _lower_version(model: onnx.ModelProto) -> None:
    next(entry for entry in model.opset_import if entry.domain == DOMAIN).version = 1


def _poorer_function(model: onnx.ModelProto) -> None:
    """A function that does not compute what the nodes ask for."""
    del model.functions[:]
    model.functions.append(attention_function(Body.SPARSE, 20, Features(fine_summaries=True)))


SPOILS: dict[str, Callable[[onnx.ModelProto], None]] = {
    "another feature": lambda model: _set(model, "routing", 1),
    "fine bit": _flip_bit("fine_mask"),
    "sign of the rotation": _flip_bit("rotation"),
    "no smoothing": lambda model: _set(model, "smoothing", 0),
    "inputs of version 1": _drop_inputs,
    "plugin of version 1": lambda model: _set(model, "plugin_version", b"1"),
    "operators of version 1": _lower_version,
    "poorer function": _poorer_function,
}


@pytest.mark.parametrize("spoil", SPOILS.values(), ids=SPOILS.keys())
def test_check_notices(
    exported: Path, plan: ParoPlan, tmp_path: Path, spoil: Callable[[onnx.ModelProto], None]
) -> None:
    model = onnx.load(exported)
    spoil(model)
    path = tmp_path / "spoiled.onnx"
    onnx.save(model, path)
    with pytest.raises(OnnxFileError):
        check_export(path, plan, Body.SPARSE)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (SPOILS["inputs of version 1"], "plugin_version 2 and 14 inputs.*got 2 and 10"),
        (SPOILS["plugin of version 1"], "plugin_version 2 and 14 inputs.*got 1 and 14"),
        (_lower_version, "TensorRT's parser would drop"),
        (lambda model: setattr(model.opset_import[1], "version", 3), "expected 1 or 2, got 3"),
    ],
    ids=["inputs", "plugin", "operators", "future"],
)
def test_building_refuses_a_mix_of_versions(
    exported: Path, tmp_path: Path, spoil: Callable[[onnx.ModelProto], None], message: str
) -> None:
    model = onnx.load(exported)
    assert model.opset_import[1].domain == DOMAIN
    spoil(model)
    path = tmp_path / "mixed.onnx"
    onnx.save(model, path)
    with pytest.raises(OnnxFileError, match=message):
        read_source(path)


def test_plan_of_version_1_refuses_a_file_of_version_2(exported: Path, loaded: LoadedModel) -> None:
    older = small_plan(model=loaded.identity, pool_dropped=True, qk_bits=8, pv_bits=16)
    with pytest.raises(OnnxFileError, match="version of the op"):
        check_export(exported, older, Body.SPARSE)
