"""One version of the op for all nodes of a file: what is exported from calls of both versions."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
import torch

from paro_trt.errors import ArgumentError
from paro_trt.onnx_export import Body
from paro_trt.onnx_export.bodies import Features, attention_function
from paro_trt.onnx_export.translate import translation_table
from paro_trt.onnx_export.versions import settle_version
from paro_trt.op.spec import (
    DOMAIN,
    INPUTS,
    VERSION_2_INPUTS,
    AttentionInputs,
    op_attributes,
    op_inputs,
)
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


@pytest.mark.parametrize("body", [Body.SPARSE, Body.DENSE])
def test_file_of_both_kinds_of_layers_computes_what_the_calls_do(
    mixed: tuple[Any, Features], inputs: AttentionInputs, body: Body
) -> None:
    proto = as_proto(*mixed, body)
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    feed = {name: getattr(inputs, name).numpy() for name in PER_CALL}
    actual = torch.from_numpy(session.run(None, feed)[0])
    model = Calls(inputs, USED)
    expected = model(*(getattr(inputs, name) for name in PER_CALL))
    # Three quantized attentions in a row: a code that falls to the other side moves the next ones.
    error = (actual - expected).norm() / expected.norm()
    assert error < 2e-3


def test_more_channels_than_the_function_rotates_are_refused() -> None:
    wide = random_inputs(OpCase("wide", 64, 1, 1, 1, head_dim=512, config=CASE.config), seed=1)
    with pytest.raises(ArgumentError, match=r"smoothing: expected at most 256 channels.*512"):
        settled(wide, (("rotation",),))


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
