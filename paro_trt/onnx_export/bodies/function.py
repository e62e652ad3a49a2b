"""Assembles the FunctionProto of PAROAttention from its three stages."""

from __future__ import annotations

from enum import Enum

import onnx
from onnx import helper

from ...op.spec import ATTRIBUTES, DOMAIN, INPUTS, OP_TYPE
from .attend import attend_dense, attend_sparse
from .builder import GraphBuilder, Value
from .prepare import prepare
from .restore import restore
from .stages import Formals

FORMAL_PREFIX = "paro_"
"""TensorRT's parser clashes when a formal name equals the name of a tensor outside."""

OUTPUT = f"{FORMAL_PREFIX}output"


class Body(str, Enum):
    """What a file carries to explain its PAROAttention nodes.

    SPARSE: a loop that reads listed key blocks only. DENSE: the mask expanded, no loop.
    NONE: nothing; only a runtime with the plugin can run the file.
    """

    SPARSE = "sparse"
    DENSE = "dense"
    NONE = "none"


def attention_function(body: Body, opset: int) -> onnx.FunctionProto:
    """The function in domain `paro`, one for every attribute value a node may carry.

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


def body_of(model: onnx.ModelProto) -> Body:
    """Which body a file carries; NONE also where it has no PAROAttention at all."""
    for function in model.functions:
        if (function.domain, function.name) == (DOMAIN, OP_TYPE):
            loops = any(node.op_type == "Loop" for node in function.node)
            return Body.SPARSE if loops else Body.DENSE
    return Body.NONE
