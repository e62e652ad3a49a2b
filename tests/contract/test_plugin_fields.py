"""The TensorRT plugin's creator and the types it takes against the op's tables."""

from __future__ import annotations

import json

import pytest

from paro_trt.engine.plugin_library import MAX_WORKSPACE
from paro_trt.op.spec import (
    OP_TYPE,
    OP_VERSION,
    OP_VERSION_2,
    PLUGIN_NAMESPACE,
    op_attributes,
    op_inputs,
)
from tests.tensorrt.harness import host_build, run

# nvinfer1::PluginFieldType, DataType and TensorFormat.
FIELD_TYPES = {float: 1, int: 5}
DATA_TYPES = {"float32": 0, "float16": 1, "int32": 3, "bfloat16": 7}
LINEAR = 0


VERSIONS = pytest.mark.parametrize("version", [OP_VERSION, OP_VERSION_2])


@pytest.fixture(scope="module")
def contracts() -> dict[int, dict]:
    """What the creator of each version says."""
    build = host_build()
    creators = json.loads(run(build.program, "contract", build.library))
    return {int(creator["version"]): creator for creator in creators}


def test_there_is_a_creator_of_each_version(contracts: dict[int, dict]) -> None:
    assert list(contracts) == [OP_VERSION, OP_VERSION_2]
    for contract in contracts.values():
        assert contract["name"] == OP_TYPE
        assert contract["namespace"] == PLUGIN_NAMESPACE


@VERSIONS
def test_fields_are_the_op_s_attributes_and_the_build_s_limit(
    contracts: dict[int, dict], version: int
) -> None:
    """All but the two that TensorRT's parser takes for itself."""
    kinds = {entry.name: entry.kind for entry in op_attributes(version)}
    names = [name for name in kinds if not name.startswith("plugin_")]
    assert contracts[version]["fields"] == [
        {"name": name, "type": FIELD_TYPES[kinds.get(name, int)], "length": 1}
        for name in (*names, MAX_WORKSPACE)
    ]


@VERSIONS
def test_types_are_the_op_s_inputs_in_half_precision(
    contracts: dict[int, dict], version: int
) -> None:
    def tensors(query: str) -> list[dict]:
        entries = op_inputs(version)
        inputs = [query if query in entry.dtypes else entry.dtypes[0] for entry in entries]
        return [{"type": DATA_TYPES[name], "format": LINEAR} for name in (*inputs, query)]

    assert sorted(contracts[version]["combinations"], key=str) == sorted(
        [tensors("float16"), tensors("bfloat16")], key=str
    )
