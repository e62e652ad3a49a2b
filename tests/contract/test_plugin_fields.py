"""The TensorRT plugin's creator and the types it takes against the op's tables."""

from __future__ import annotations

import json

import pytest

from paro_trt.engine.plugin_library import MAX_WORKSPACE
from paro_trt.op.spec import ATTRIBUTES, INPUTS, OP_TYPE, PLUGIN_NAMESPACE, PLUGIN_VERSION
from tests.tensorrt.harness import host_build, run

# nvinfer1::PluginFieldType, DataType and TensorFormat.
FIELD_TYPES = {float: 1, int: 5}
DATA_TYPES = {"float32": 0, "float16": 1, "int32": 3, "bfloat16": 7}
LINEAR = 0


@pytest.fixture(scope="module")
def contract() -> dict:
    build = host_build()
    return json.loads(run(build.program, "contract", build.library))


def test_name_version_and_namespace_are_the_op_s(contract: dict) -> None:
    assert contract["name"] == OP_TYPE
    assert contract["version"] == PLUGIN_VERSION
    assert contract["namespace"] == PLUGIN_NAMESPACE


def test_fields_are_the_op_s_attributes_and_the_build_s_limit(contract: dict) -> None:
    """All but the two that TensorRT's parser takes for itself."""
    kinds = {entry.name: entry.kind for entry in ATTRIBUTES}
    names = [name for name in kinds if not name.startswith("plugin_")]
    assert contract["fields"] == [
        {"name": name, "type": FIELD_TYPES[kinds.get(name, int)], "length": 1}
        for name in (*names, MAX_WORKSPACE)
    ]


def test_types_are_the_op_s_inputs_in_half_precision(contract: dict) -> None:
    def tensors(query: str) -> list[dict]:
        inputs = [query if query in entry.dtypes else entry.dtypes[0] for entry in INPUTS]
        return [{"type": DATA_TYPES[name], "format": LINEAR} for name in (*inputs, query)]

    assert sorted(contract["combinations"], key=str) == sorted(
        [tensors("float16"), tensors("bfloat16")], key=str
    )
