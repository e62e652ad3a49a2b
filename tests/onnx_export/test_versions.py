"""One version of the op for all nodes of a file: what is exported from calls of both versions."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest
import torch

from paro_trt.errors import BackendUnavailableError, OnnxFileError
from paro_trt.onnx_export import Body
from paro_trt.onnx_export.bodies import Features, attention_function
from paro_trt.onnx_export.translate import translation_table
from paro_trt.onnx_export.versions import settle_version
from paro_trt.onnx_file.info import ExportInfo
from paro_trt.op.spec import (
    DOMAIN,
    INPUTS,
    VERSION_2_INPUTS,
    AttentionInputs,
    op_attributes,
    op_inputs,
)
from paro_trt.plan import Grid, ModelIdentity
from paro_trt.runtime.custom_op import NativeOp
from paro_trt.runtime.onnxruntime_session import OrtSession
from tests.onnx_export.single_node import feed_of, single_node_model
from tests.support.cases import SMOOTHED_CASES, OpCase, random_inputs

ADDED = tuple(entry.name for entry in VERSION_2_INPUTS)
CASE = next(case for case in SMOOTHED_CASES if case.name == "smoothed-all")
USED = ((), ("dynamic_blocks",), ("fine_mask", "rotation"))
PER_CALL = ("query", "key", "value", "mask_bin", "key_length")


class Calls(torch.nn.Module):
    """The op applied to its own output, once for each set of version 2's inputs."""

    def __init__(self, inputs: AttentionInputs, used: tuple[tuple[str, ...], ...]) -> None:
        super().__init__()
        for name, tensor in inputs.named_tensors().items():
            if name not in PER_CALL:
                self.register_buffer(name, tensor)
        self.used = used

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask_bin: torch.Tensor,
        key_length: torch.Tensor,
    ) -> torch.Tensor:
        plan = (self.token_order, self.head_order, self.block_mask, self.tile_order)
        for names in self.used:
            added = (getattr(self, name) if name in names else None for name in ADDED)
            query = torch.ops.paro.attention(
                query, key, value, *plan, self.channel_affine, mask_bin, key_length, *added,
                0.0, CASE.config.block_q, CASE.config.block_k, 4 if "rotation" in names else 8,
                8, 1, "reference",
            )  # fmt: skip
        return query


def settled(inputs: AttentionInputs, used: tuple[tuple[str, ...], ...]) -> tuple[Any, Features]:
    arguments = tuple(getattr(inputs, name) for name in PER_CALL)
    program = torch.onnx.export(
        Calls(inputs, used).eval(),
        arguments,
        dynamo=True,
        custom_translation_table=translation_table(),
        input_names=list(PER_CALL),
        verbose=False,
    )
    return program.model, settle_version(program.model)


def as_proto(model: Any, features: Features, body: Body) -> onnx.ModelProto:
    proto = onnx_ir.serde.serialize_model(model)
    opset = next(entry.version for entry in proto.opset_import if entry.domain == "")
    next(entry for entry in proto.opset_import if entry.domain == DOMAIN).version = features.version
    proto.functions.append(attention_function(body, opset, features))
    return proto


@pytest.fixture(scope="module")
def inputs() -> AttentionInputs:
    return random_inputs(CASE, seed=7)


@pytest.fixture(scope="module")
def mixed(inputs: AttentionInputs) -> tuple[Any, Features]:
    """Three layers: without any feature, with routing, with fine summaries and smoothing."""
    return settled(inputs, USED)


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}


def test_one_layer_of_version_2_makes_all_nodes_of_version_2(mixed: tuple[Any, Features]) -> None:
    model, features = mixed
    assert features == Features(fine_summaries=True, routing=True, smoothing=True)
    nodes = as_proto(model, features, Body.DENSE).graph.node
    assert len(nodes) == 3
    for node in nodes:
        assert sorted(attributes(node)) == sorted(entry.name for entry in op_attributes(2))
        assert attributes(node)["plugin_version"] == b"2"
        assert len(node.input) == len(op_inputs(2))
        assert all(node.input)
    used = [[attributes(node)[name] for name in Features._fields] for node in nodes]
    assert used == [[0, 0, 0, 0], [0, 0, 1, 0], [1, 0, 0, 1]]


def test_unused_inputs_are_zeros_of_the_contract_s_shape(
    mixed: tuple[Any, Features], inputs: AttentionInputs
) -> None:
    model, features = mixed
    graph = as_proto(model, features, Body.DENSE).graph
    constants = {entry.name: onnx.numpy_helper.to_array(entry) for entry in graph.initializer}
    given = inputs.named_tensors()
    for node, used in zip(graph.node, USED, strict=True):
        for name, source in zip(ADDED, node.input[len(INPUTS) :], strict=True):
            expected = given[name].numpy() * int(name in used)
            assert constants[source].dtype == np.int32
            np.testing.assert_array_equal(constants[source], expected)
    assert sum(name.startswith("unused_") for name in constants) == len(ADDED)


@pytest.mark.parametrize("head_dim", [256, 512])
def test_a_hand_made_node_of_more_channels_is_refused(head_dim: int, tmp_path: Path) -> None:
    """By the session whose function would rotate it wrongly, and by the native op."""
    config = replace(CASE.config, fine_summaries=False, mean_correction=False, routing=False)
    case = OpCase("wide", 64, 1, 1, 1, head_dim=head_dim, config=config)
    inputs, path = random_inputs(case, seed=1), tmp_path / "model.onnx"
    made = single_node_model(Body.DENSE, inputs, config)
    info = ExportInfo(ModelIdentity("Made", "0" * 64), Grid(1, 8, 8))
    onnx.helper.set_model_props(made, info.to_metadata())
    onnx.save(made, path)
    if head_dim == 256:
        OrtSession(path).close()
    else:
        with pytest.raises(OnnxFileError, match=r"smoothing of .* at most 256 channels .* got 512"):
            OrtSession(path)
    native = OrtSession(path, native_op=NativeOp.CPU)
    with pytest.raises(BackendUnavailableError, match=f"head_dim.* 64 or 128.* {head_dim}"):
        native.run(feed_of(inputs, None, config))


def test_model_without_features_keeps_version_1(inputs: AttentionInputs) -> None:
    model, features = settled(inputs, ((), ()))
    proto = as_proto(model, features, Body.SPARSE)
    assert features == Features()
    assert features.version == 1
    assert {entry.domain: entry.version for entry in proto.opset_import}[DOMAIN] == 1
    for node in proto.graph.node:
        assert sorted(attributes(node)) == sorted(entry.name for entry in op_attributes(1))
        assert attributes(node)["plugin_version"] == b"1"
        assert len(node.input) == len(INPUTS)
    assert not [entry.name for entry in proto.graph.initializer if entry.name in ADDED]


@pytest.mark.parametrize(
    ("body", "digest"), [(Body.SPARSE, "08b3567bbc44a36f"), (Body.DENSE, "2b79432889edf492")]
)
def test_function_of_version_1_is_what_it_was(body: Body, digest: str) -> None:
    """Version 1 files stay equal bit for bit. A change of the function that is meant changes this
    digest, and files that were exported before keep the old function."""
    function = attention_function(body, 20).SerializeToString(deterministic=True)
    assert hashlib.sha256(function).hexdigest().startswith(digest)
