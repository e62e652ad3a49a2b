"""The ONNX schema, the emitted node and the local function against the op's tables."""

from __future__ import annotations

import onnx
import onnx_ir
import pytest
import torch

from paro_trt.onnx_export import Body
from paro_trt.onnx_export.bodies import Features, attention_function
from paro_trt.onnx_export.translate import operator_schema, translation_table
from paro_trt.onnx_file.read import attributes_read
from paro_trt.op.spec import (
    ATTRIBUTES,
    DOMAIN,
    INPUTS,
    OP_TYPE,
    OP_VERSION,
    VERSION_2_ATTRIBUTES,
    op_attributes,
    op_inputs,
)
from tests.support.cases import OpCase, random_inputs

REQUIRED = [entry.name for entry in ATTRIBUTES if entry.default is None]
EVERYTHING = Features(*(True for _ in Features._fields))
BODIES = pytest.mark.parametrize("body", [Body.SPARSE, Body.DENSE])
VERSIONS = pytest.mark.parametrize("features", [Features(), EVERYTHING], ids=["1", "2"])


@pytest.fixture(scope="module")
def node() -> onnx.NodeProto:
    """What torch.onnx.export makes of one call of the op."""

    class Call(torch.nn.Module):
        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            return torch.ops.paro.attention(
                *inputs, None, None, None, None, 0.25, 64, 128, 8, 4, 1, "reference"
            )

    inputs = random_inputs(OpCase("one", 130, head_dim=8), seed=1)
    program = torch.onnx.export(
        Call(),
        tuple(inputs.named_tensors().values()),
        dynamo=True,
        custom_translation_table=translation_table(),
        input_names=[entry.name for entry in INPUTS],
        verbose=False,
    )
    model = onnx_ir.serde.serialize_model(program.model)
    assert {entry.domain: entry.version for entry in model.opset_import}[DOMAIN] == OP_VERSION
    (only,) = model.graph.node
    return only


def test_node_is_the_op_with_its_inputs_in_order(node: onnx.NodeProto) -> None:
    assert (node.domain, node.op_type) == (DOMAIN, OP_TYPE)
    assert list(node.input) == [entry.name for entry in INPUTS]
    assert len(node.output) == 1


def test_node_spells_out_every_attribute(node: onnx.NodeProto) -> None:
    values = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
    assert values == {
        "scale": 0.25,
        "block_q": 64,
        "block_k": 128,
        "qk_bits": 8,
        "pv_bits": 4,
        "pool_dropped": 1,
        "plugin_version": b"1",
        "plugin_namespace": b"",
    }
    assert sorted(values) == sorted(entry.name for entry in ATTRIBUTES)


@BODIES
@VERSIONS
def test_function_has_the_op_interface(body: Body, features: Features) -> None:
    function = attention_function(body, 20, features)
    assert (function.domain, function.name) == (DOMAIN, OP_TYPE)
    assert list(function.input) == [f"paro_{entry.name}" for entry in op_inputs(features.version)]
    assert list(function.attribute) == REQUIRED
    defaults = {
        entry.name: onnx.helper.get_attribute_value(entry) for entry in function.attribute_proto
    }
    assert defaults == {
        entry.name: entry.default.encode() if isinstance(entry.default, str) else entry.default
        for entry in op_attributes(features.version)
        if entry.default is not None
    }


@BODIES
@VERSIONS
def test_function_names_cannot_meet_names_of_a_graph(body: Body, features: Features) -> None:
    function = attention_function(body, 20, features)
    names = {name for node in function.node for name in (*node.input, *node.output)}
    assert all(name.startswith("paro_") for name in names)


@BODIES
@VERSIONS
def test_function_reads_every_attribute_that_changes_the_result(
    body: Body, features: Features
) -> None:
    assert attributes_read(attention_function(body, 20, features)) == {
        entry.name
        for entry in op_attributes(features.version)
        if not entry.name.startswith("plugin_")
    }


@BODIES
@pytest.mark.parametrize("name", Features._fields)
def test_function_reads_no_feature_that_it_is_not_made_for(body: Body, name: str) -> None:
    function = attention_function(body, 20, Features()._replace(**{name: True}))
    added = {entry.name for entry in VERSION_2_ATTRIBUTES}
    assert attributes_read(function) & added == {name}


def test_features_are_the_attributes_of_version_2() -> None:
    assert list(Features._fields) == [entry.name for entry in VERSION_2_ATTRIBUTES]


@pytest.mark.parametrize("version", [1, 2])
def test_schema_is_the_tables(version: int) -> None:
    schema = operator_schema(version)
    assert (schema.domain, schema.name, schema.since_version) == (DOMAIN, OP_TYPE, version)
    assert [formal.name for formal in schema.inputs] == [entry.name for entry in op_inputs(version)]
    assert sorted(schema.attributes) == sorted(entry.name for entry in op_attributes(version))
    assert sorted(n for n, entry in schema.attributes.items() if entry.required) == sorted(REQUIRED)
