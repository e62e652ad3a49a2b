"""Writes ONNX nodes from Python expressions, so that a function body reads like its formulas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Union

import onnx
from onnx import helper

Operand = Union["Value", int, float, Sequence[int], Sequence[float]]


class Value:
    """A tensor of the graph being written. Operators append the ONNX node of the same meaning.

    Python integers become INT64 constants, floats FLOAT constants, and sequences 1-D constants.
    """

    def __init__(self, graph: GraphBuilder, name: str) -> None:
        self.graph = graph
        self.name = name

    def __add__(self, other: Operand) -> Value:
        return self.graph.op("Add", self, other)

    def __sub__(self, other: Operand) -> Value:
        return self.graph.op("Sub", self, other)

    def __mul__(self, other: Operand) -> Value:
        return self.graph.op("Mul", self, other)

    def __truediv__(self, other: Operand) -> Value:
        return self.graph.op("Div", self, other)

    def __floordiv__(self, other: Operand) -> Value:
        """Integer division. ONNX's Div truncates, which is the same for values that are not
        negative."""
        return self.graph.op("Div", self, other)

    def __mod__(self, other: Operand) -> Value:
        return self.graph.op("Mod", self, other)

    def __and__(self, other: Operand) -> Value:
        return self.graph.op("And", self, other)

    def __or__(self, other: Operand) -> Value:
        return self.graph.op("Or", self, other)

    def __invert__(self) -> Value:
        return self.graph.op("Not", self)

    def __lt__(self, other: Operand) -> Value:
        return self.graph.op("Less", self, other)

    def __gt__(self, other: Operand) -> Value:
        return self.graph.op("Greater", self, other)

    def equals(self, other: Operand) -> Value:
        return self.graph.op("Equal", self, other)

    def cast(self, element_type: int) -> Value:
        """Convert to a TensorProto element type."""
        return self.graph.op("Cast", self, to=element_type)

    def floats(self) -> Value:
        """Convert to FLOAT."""
        return self.cast(onnx.TensorProto.FLOAT)

    def take(self, indices: Operand, axis: int = 0) -> Value:
        """Slices of one axis at `indices`. The shape of `indices` replaces the axis."""
        return self.graph.op("Gather", self, indices, axis=axis)

    def unsqueeze(self, *axes: int) -> Value:
        return self.graph.op("Unsqueeze", self, axes)

    def reshape(self, *dims: Value | int) -> Value:
        """Reshape to dims, each an INT64 scalar of the graph or a number. -1 as in ONNX; 0 means
        0."""
        return self.graph.op(
            "Reshape", self, self.graph.vector(*dims), allowzero=int(-1 not in dims)
        )

    def split(self, size: Value, axis: int) -> tuple[Value, Value]:
        """The first `size` slices of one axis, and the rest."""
        cut, end = self.graph.vector(size), [(1 << 31) - 1]
        return (
            self.graph.op("Slice", self, [0], cut, [axis]),
            self.graph.op("Slice", self, cut, end, [axis]),
        )

    def transpose(self, *permutation: int) -> Value:
        return self.graph.op("Transpose", self, perm=permutation)

    def max(self, *axes: int) -> Value:
        """Maximum over axes, which keep size 1."""
        return self.graph.op("ReduceMax", self, axes)

    def sum(self, *axes: int, keep: bool = True) -> Value:
        """Sum over axes, which keep size 1 unless `keep` is false."""
        return self.graph.op("ReduceSum", self, axes, keepdims=int(keep))


class _Scope:
    """Nodes and constants of one graph. Subgraphs can read those of the graphs around them."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[tuple[str, object], Value] = {}


class GraphBuilder:
    """Collects the nodes of one function body, with its subgraphs."""

    def __init__(self, *, control_flow: bool) -> None:
        """`control_flow` says whether the body may use If and Loop."""
        self.control_flow = control_flow
        self._scopes = [_Scope()]
        self._names = 0

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        """Nodes of the graph being written, in order."""
        return self._scopes[-1].nodes

    def op(self, op_type: str, *inputs: Operand, **attributes: object) -> Value:
        """Append a node with one output."""
        names = [self._value(operand).name for operand in inputs]
        output = self._fresh_name(op_type)
        self.nodes.append(helper.make_node(op_type, names, [output], **attributes))
        return Value(self, output)

    def constant(self, number: int | float | Sequence[int] | Sequence[float]) -> Value:
        """An INT64 or FLOAT constant, scalar or 1-D. Equal constants are written once."""
        many = isinstance(number, Sequence)
        payload = tuple(number) if isinstance(number, Sequence) else number
        sample = payload[0] if isinstance(payload, tuple) else payload
        attribute = ("value_float" if isinstance(sample, float) else "value_int") + "s" * many
        key = (attribute, payload)
        for scope in self._scopes:
            if key in scope.constants:
                return scope.constants[key]
        self._scopes[-1].constants[key] = result = self.op("Constant", **{attribute: payload})
        return result

    def attribute(self, name: str, kind: type) -> Value:
        """A scalar constant with the value of the calling node's attribute of this name."""
        reference = onnx.AttributeProto()
        reference.name = f"value_{kind.__name__}"
        reference.type = onnx.AttributeProto.FLOAT if kind is float else onnx.AttributeProto.INT
        reference.ref_attr_name = name
        result = self.op("Constant")
        self.nodes[-1].attribute.append(reference)
        return result

    def vector(self, *scalars: Value | int) -> Value:
        """INT64 [n] from n INT64 scalars."""
        numbers = [scalar for scalar in scalars if isinstance(scalar, int)]
        if len(numbers) == len(scalars):
            return self.constant(numbers)
        parts = [self.op("Unsqueeze", scalar, [0]) for scalar in scalars]
        return self.concat(*parts, axis=0)

    def arange(self, stop: Operand, step: Operand = 1) -> Value:
        """INT64 0, step, 2 step, ... below stop."""
        return self.op("Range", 0, stop, step)

    def concat(self, *parts: Value, axis: int) -> Value:
        return self.op("Concat", *parts, axis=axis)

    def where(self, condition: Value, chosen: Operand, other: Operand) -> Value:
        return self.op("Where", condition, chosen, other)

    def ranked(self, x: Value, count: Value) -> Value:
        """INT64 [..., count]: indices of the largest of the last axis, ties to the lower index."""
        names = [self._fresh_name("TopK") for _ in range(2)]
        inputs = [x.name, self.vector(count).name]
        self.nodes.append(helper.make_node("TopK", inputs, names, axis=-1, largest=1, sorted=1))
        return Value(self, names[1])

    def choose(
        self, condition: Value, chosen: Callable[[], Value], other: Callable[[], Value]
    ) -> Value:
        """chosen() if the BOOL scalar condition holds, else other(): FLOAT, of equal shapes.

        With control flow an If node, of which a runtime that knows the condition keeps one
        branch; without, both are computed.
        """
        if not self.control_flow:
            return self.where(condition, chosen(), other())
        branches = {
            "then_branch": self._branch("then_branch", chosen),
            "else_branch": self._branch("else_branch", other),
        }
        return self.op("If", condition, **branches)

    def stack(self, count: Value, slice_of: Callable[[Value], Value]) -> Value:
        """Loop node: FLOAT slice_of(0), ..., slice_of(count - 1) stacked along a new first axis."""
        index, go_on = self._fresh_name("index"), self._fresh_name("go_on")
        nodes, result = self._written_apart(lambda: slice_of(Value(self, index)))
        still = self._fresh_name("go_on")
        nodes.append(helper.make_node("Identity", [go_on], [still]))

        def scalar(name: str, element_type: int) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, element_type, [])

        stacked = helper.make_tensor_value_info(result.name, onnx.TensorProto.FLOAT, None)
        inputs = [scalar(index, onnx.TensorProto.INT64), scalar(go_on, onnx.TensorProto.BOOL)]
        body = helper.make_graph(
            nodes, "body", inputs, [scalar(still, onnx.TensorProto.BOOL), stacked]
        )
        always = self.constant(1).cast(onnx.TensorProto.BOOL)
        return self.op("Loop", count, always, body=body)

    def _branch(self, name: str, write: Callable[[], Value]) -> onnx.GraphProto:
        # A branch may not output a tensor of the graph around it, so Identity copies it.
        nodes, result = self._written_apart(lambda: self.op("Identity", write()))
        output = helper.make_tensor_value_info(result.name, onnx.TensorProto.FLOAT, None)
        return helper.make_graph(nodes, name, [], [output])

    def _written_apart(self, write: Callable[[], Value]) -> tuple[list[onnx.NodeProto], Value]:
        """The nodes that `write` appends, kept out of the current graph, and its result."""
        self._scopes.append(_Scope())
        result = write()
        return self._scopes.pop().nodes, result

    def _fresh_name(self, stem: str) -> str:
        self._names += 1
        return f"paro_{stem.lower()}_{self._names}"

    def _value(self, operand: Operand) -> Value:
        return operand if isinstance(operand, Value) else self.constant(operand)
