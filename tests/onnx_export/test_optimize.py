"""The exporter's optimizer: the same graphs, in time that grows with the graph."""

from __future__ import annotations

import onnx_ir
import pytest
from onnx import ModelProto, TensorProto, helper
from onnxscript import optimizer

from paro_trt.onnx_export.optimize import optimize


class Program:
    """What torch.onnx.export returns, as far as optimizing goes."""

    def __init__(self, proto: ModelProto) -> None:
        self.model = onnx_ir.serde.deserialize_model(proto)

    def optimize(self) -> None:
        optimizer.optimize_ir(self.model)

    @property
    def graph(self) -> str:
        return str(onnx_ir.serde.serialize_model(self.model).graph)


def model(layers: int, *, slices: bool) -> ModelProto:
    """Layers of an addition, and of two slices."""
    names = {"zero": [0], "half": [4], "end": [8], "axis": [1]}
    constants = [helper.make_tensor(n, TensorProto.INT64, [1], v) for n, v in names.items()]
    nodes, last = [], "x"
    for layer in range(layers):
        nodes.append(helper.make_node("Add", [last, "x"], [f"a{layer}"]))
        last = f"a{layer}"
        if slices:
            for part, (begin, end) in {"l": ("zero", "half"), "r": ("half", "end")}.items():
                nodes.append(
                    helper.make_node("Slice", [last, begin, end, "axis"], [f"{part}{layer}"])
                )
            nodes.append(
                helper.make_node("Concat", [f"r{layer}", f"l{layer}"], [f"c{layer}"], axis=1)
            )
            last = f"c{layer}"
    shape = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 8]) for n in ("x", last)]
    graph = helper.make_graph(nodes, "g", shape[:1], shape[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


@pytest.mark.parametrize("slices", [True, False])
def test_the_graph_is_the_optimizer_s_own(slices: bool) -> None:
    own, ours = (Program(model(3, slices=slices)) for _ in range(2))
    own.optimize()
    optimize(ours)
    assert ours.graph == own.graph


def test_time_grows_with_the_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in looks at a node; the optimizer alone takes about nine times as many."""
    looks = 0
    identifier = onnx_ir.Node.op_identifier

    def counted(node: onnx_ir.Node) -> object:
        nonlocal looks
        looks += 1
        return identifier(node)

    monkeypatch.setattr(onnx_ir.Node, "op_identifier", counted)
    counts = []
    for layers in (40, 120):
        looks = 0
        optimize(Program(model(layers, slices=False)))
        counts.append(looks)
    assert counts[1] < 4 * counts[0]


def test_the_optimizer_is_left_as_it_was() -> None:
    from onnxscript.rewriter.pattern import SimplePatternMatcher

    before = SimplePatternMatcher.match
    with pytest.raises(AttributeError):
        optimize(None)
    assert SimplePatternMatcher.match is before
