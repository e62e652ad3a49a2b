"""What a file computes between projections and the op: rotary embeddings without copies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import onnx
import pytest
import torch

from paro_trt.op.spec import OP_TYPE
from tests.support.family_files import EVERY_FAMILY, export_tiny
from tests.support.tiny import all_variants

PROJECTIONS = {"MatMul", "Gemm"}
COPIES = {"ScatterND", "ScatterElements", "NonZero", "Loop", "If", "Scan", "Gather", "GatherND"}
SHAPES_OF_TOKENS = {"Range", "Shape", "CumSum"}

TRANSPOSES = {"cosmos": 2, "sd3": 3}
"""Of query, key and value each, where not 0: these norm heads as [B, H, S, D]."""


def between(graph: onnx.GraphProto, last: str) -> Iterator[onnx.NodeProto]:
    """The nodes that a tensor is computed by, back to the projections."""
    producer = {name: node for node in graph.node for name in node.output}
    waiting, seen = [last], set[str]()
    while waiting:
        node = producer.get(waiting.pop())
        if node is None or node.op_type in PROJECTIONS or node.output[0] in seen:
            continue
        seen.add(node.output[0])
        waiting += node.input
        yield node


def check_paths(model: onnx.ModelProto, transposes: int) -> None:
    """No copies, no tokens counted, few transposes, on the way to each query, key and value."""
    nodes = [node for node in model.graph.node if node.op_type == OP_TYPE]
    assert nodes
    for node in nodes:
        for tensor in node.input[:3]:
            counts = Counter(step.op_type for step in between(model.graph, tensor))
            wrong = {name: counts[name] for name in COPIES | SHAPES_OF_TOKENS if counts[name]}
            assert not wrong, f"{node.name}, {tensor}: {wrong}"
            assert counts["Transpose"] <= transposes, f"{node.name}, {tensor}: {counts}"


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_rotary_embeddings_are_arithmetic(family_file, family):
    check_paths(onnx.load(family_file(family)), TRANSPOSES.get(family, 0))


@pytest.mark.long
@pytest.mark.parametrize(
    "tiny", [pytest.param(tiny, id=tiny.name) for tiny in all_variants() if tiny.available]
)
def test_rotary_embeddings_of_every_variant(tiny, tmp_path):
    export_tiny(tiny, torch.bfloat16, tmp_path / "tiny.onnx")
    check_paths(onnx.load(tmp_path / "tiny.onnx"), TRANSPOSES.get(tiny.family.name, 0))
