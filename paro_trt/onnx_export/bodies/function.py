"""Assembles the FunctionProto of PAROAttention from its three stages."""

from __future__ import annotations

import onnx
from onnx import helper

from ...onnx_file.read import Body
from ...op.spec import ATTRIBUTES, DOMAIN, INPUTS, OP_TYPE
from .attend import attend_dense, attend_sparse
from .builder import GraphBuilder, Value
from .prepare import prepare
from .restore import restore
from .stages import Formals

FORMAL_PREFIX = "paro_"
"""Prefix of formal names: TensorRT's parser fails if one equals the name of a tensor outside."""

OUTPUT = f"{FORMAL_PREFIX}output"


def attention_function(body: Body, opset: int) -> onnx.FunctionProto:
    """The function in domain `paro`. One function serves all attribute values of a node.

    Args:
        body: SPARSE or DENSE.
        opset: the model's version of the standard operators, 18 or later.
    """
    graph = GraphBuilder(control_flow=body is Body.SPARSE)
    formals = Formals(*(Value(graph, FORMAL_PREFIX + entry.name) for entry in INPUTS))
    prepared = prepare(graph, formals)
    attend = attend_sparse if body is Body.SPARSE else attend_dense
    result = restore(graph, attend(graph, prepared), prepared, formals)
    graph.nodes.append(helper.make_node("Identity", [result.name], [OUTPUT]))
    return helper.make_function(
        DOMAIN,
        OP_TYPE,
        [formal.name for formal in formals],
        [OUTPUT],
        graph.nodes,
        [helper.make_opsetid("", opset)],
        attributes=[entry.name for entry in ATTRIBUTES if entry.default is None],
        attribute_protos=[
            helper.make_attribute(entry.name, entry.default)
            for entry in ATTRIBUTES
            if entry.default is not None
        ],
    )
