"""Assembles the FunctionProto of PAROAttention from its three stages."""

from __future__ import annotations

import onnx
from onnx import helper

from ...onnx_file.read import Body
from ...op.spec import DOMAIN, OP_TYPE, op_attributes, op_inputs
from .attend import attend_dense, attend_sparse
from .builder import GraphBuilder, Value
from .prepare import prepare
from .restore import restore
from .stages import NO_FEATURES, Features, Formals

FORMAL_PREFIX = "paro_"
"""Prefix of formal names: TensorRT's parser fails if one equals the name of a tensor outside."""

OUTPUT = f"{FORMAL_PREFIX}output"


def attention_function(
    body: Body, opset: int, features: Features = NO_FEATURES
) -> onnx.FunctionProto:
    """The function in domain `paro`. One function serves all attribute values of a node.

    Args:
        body: SPARSE or DENSE.
        opset: the model's version of the standard operators, 18 or later.
        features: what its nodes use of version 2. It does not compute any other feature, and
            is of version 1 if there is none.
    """
    attributes = op_attributes(features.version)
    graph = GraphBuilder(control_flow=body is Body.SPARSE)
    formals = Formals(
        *(Value(graph, FORMAL_PREFIX + entry.name) for entry in op_inputs(features.version))
    )
    prepared = prepare(graph, formals, features)
    attend = attend_sparse if body is Body.SPARSE else attend_dense
    result = restore(graph, attend(graph, prepared), prepared, formals)
    graph.nodes.append(helper.make_node("Identity", [result.name], [OUTPUT]))
    return helper.make_function(
        DOMAIN,
        OP_TYPE,
        [formal.name for formal in formals if formal is not None],
        [OUTPUT],
        graph.nodes,
        [helper.make_opsetid("", opset)],
        attributes=[entry.name for entry in attributes if entry.default is None],
        attribute_protos=[
            helper.make_attribute(entry.name, entry.default)
            for entry in attributes
            if entry.default is not None
        ],
    )
