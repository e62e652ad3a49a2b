"""Gives all PAROAttention nodes of a model one version of the op."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..op.spec import DOMAIN, OP_TYPE, VERSION_2_INPUTS, op_inputs
from .bodies import Features

_MASK = next(index for index, entry in enumerate(op_inputs(1)) if entry.name == "block_mask")


def settle_version(model: Any) -> Features:
    """Make every PAROAttention node one of version 2, if any is, and say what the model uses.

    A file has one version of each domain and one function. Inputs that a node does not use become
    zeros, which nodes of equal shapes share.

    Args:
        model: an onnx_ir model whose block masks are constants; it is changed in place.
    """
    nodes = [node for node in model.graph if (node.domain, node.op_type) == (DOMAIN, OP_TYPE)]
    features = Features(*(any(_is_used(node, name) for node in nodes) for name in Features._fields))
    if any(features):
        for node in nodes:
            _raise_version(model.graph, node, features.version)
    return features


def unused_input(name: str, mask_shape: Sequence[int]) -> NDArray[np.int32]:
    """What an input of version 2 holds where its attribute is 0.

    mask_shape: of block_mask, [T, H, NQ, W].
    """
    sizes = dict(zip(("T", "H", "NQ", "W"), mask_shape, strict=True))
    entry = next(entry for entry in VERSION_2_INPUTS if entry.name == name)
    return np.zeros([sizes[symbol] for symbol in entry.shape], np.int32)


def _is_used(node: Any, feature: str) -> bool:
    attribute = node.attributes.get(feature)
    return attribute is not None and attribute.as_int() == 1


def _raise_version(graph: Any, node: Any, version: int) -> None:
    import onnx_ir

    used = {name: int(_is_used(node, name)) for name in Features._fields}
    for name, value in used.items():
        node.attributes[name] = onnx_ir.AttrInt64(name, value)
    node.attributes["plugin_version"] = onnx_ir.AttrString("plugin_version", str(version))
    node.version = version
    inputs = op_inputs(version)
    node.resize_inputs(len(inputs))
    mask_shape = [int(size) for size in node.inputs[_MASK].shape]
    for index, entry in enumerate(inputs):
        if node.inputs[index] is None:
            node.replace_input_with(index, _zeros(graph, entry.name, mask_shape))


def _zeros(graph: Any, name: str, mask_shape: Sequence[int]) -> Any:
    """The initializer of `unused_input`, made once for each shape."""
    import onnx_ir

    zeros = unused_input(name, mask_shape)
    own_name = f"unused_{name}_{'x'.join(map(str, zeros.shape))}"
    if own_name not in graph.initializers:
        tensor = onnx_ir.tensor(zeros, name=own_name)
        graph.register_initializer(
            onnx_ir.Value(
                name=own_name,
                shape=onnx_ir.Shape(zeros.shape),
                type=onnx_ir.TensorType(onnx_ir.DataType.INT32),
                const_value=tensor,
            )
        )
    return graph.initializers[own_name]
