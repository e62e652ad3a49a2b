"""Gives all PAROAttention nodes of a model one version of the op."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentError
from ..onnx_file.read import MOST_ROTATED
from ..op.spec import DOMAIN, OP_TYPE, OP_VERSION, VERSION_2_INPUTS, op_inputs
from .bodies import Features

_PLACES = {entry.name: index for index, entry in enumerate(op_inputs(OP_VERSION))}


def settle_version(model: Any) -> Features:
    """Make every PAROAttention node one of version 2, if any is, and say what the model uses.

    A file has one version of each domain and one function. Inputs that a node does not use become
    zeros, which nodes of equal shapes share.

    Args:
        model: an onnx_ir model whose block masks and channel affines are constants; it is changed
            in place.

    Raises:
        ArgumentError: a smoothed node has more channels than the function rotates.
    """
    nodes = [node for node in model.graph if (node.domain, node.op_type) == (DOMAIN, OP_TYPE)]
    features = Features(*(any(_is_used(node, name) for node in nodes) for name in Features._fields))
    if features.smoothing:
        for node in nodes:
            _check_channels(node)
    if any(features):
        for node in nodes:
            _raise_version(model.graph, node, features.version)
    return features


def unused_input(
    name: str, mask_shape: Sequence[int], affine_shape: Sequence[int]
) -> NDArray[np.int32]:
    """What an input of version 2 holds where its attribute is 0.

    mask_shape: of block_mask, [T, H, NQ, W]; affine_shape: of channel_affine, [4, Hk, D].
    """
    sizes = dict(zip(("T", "H", "NQ", "W"), mask_shape, strict=True))
    sizes |= dict(zip(("Hk", "D"), affine_shape[1:], strict=True))
    entry = next(entry for entry in VERSION_2_INPUTS if entry.name == name)
    return np.zeros([sizes[symbol] for symbol in entry.shape], np.int32)


def _is_used(node: Any, feature: str) -> bool:
    attribute = node.attributes.get(feature)
    return attribute is not None and attribute.as_int() == 1


def _check_channels(node: Any) -> None:
    head_dim = int(node.inputs[_PLACES["channel_affine"]].shape[2])
    if _is_used(node, "smoothing") and head_dim > MOST_ROTATED:
        raise ArgumentError(
            "smoothing",
            expected=f"at most {MOST_ROTATED} channels a head",
            actual=str(head_dim),
            remedy="calibrate with --no-smoothing",
        )


def _raise_version(graph: Any, node: Any, version: int) -> None:
    import onnx_ir

    used = {name: int(_is_used(node, name)) for name in Features._fields}
    for name, value in used.items():
        node.attributes[name] = onnx_ir.AttrInt64(name, value)
    node.attributes["plugin_version"] = onnx_ir.AttrString("plugin_version", str(version))
    node.version = version
    inputs = op_inputs(version)
    node.resize_inputs(len(inputs))
    shapes = [
        [int(size) for size in node.inputs[_PLACES[name]].shape]
        for name in ("block_mask", "channel_affine")
    ]
    for index, entry in enumerate(inputs):
        if node.inputs[index] is None:
            zeros = unused_input(entry.name, *shapes)
            node.replace_input_with(index, _initializer(graph, entry.name, zeros))


def _initializer(graph: Any, name: str, zeros: NDArray[np.int32]) -> Any:
    """The one that holds what `unused_input` returned, made once for each shape."""
    import onnx_ir

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
