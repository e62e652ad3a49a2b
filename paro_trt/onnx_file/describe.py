"""An ONNX file as plain values: what `paro-trt inspect` shows."""

from __future__ import annotations

from collections import Counter
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ..errors import OnnxFileError
from ..op.spec import OP_TYPE, OP_VERSION_2, block_count, op_inputs
from .read import (
    Constants,
    attributes_of,
    body_of,
    external_files,
    is_attention,
    next_to_its_data,
    read_onnx,
)

_PLACES = {entry.name: index for index, entry in enumerate(op_inputs(OP_VERSION_2))}


def describe_onnx(path: str | PathLike[str]) -> dict[str, Any]:
    """What an ONNX file holds, ready for JSON. Of the weights only block masks are read.

    Raises:
        OnnxFileError: the file or its external data is missing, truncated or damaged.
    """
    path = Path(path)
    model = read_onnx(path)
    graph = model.graph
    constants = Constants(path, model)
    external, data = external_files(model), next_to_its_data(path, model).parent
    try:
        attention = [_attention(node, constants) for node in graph.node if is_attention(node)]
    except Exception as error:  # whatever decoding a hostile tensor or attribute raises
        raise OnnxFileError(
            str(path),
            expected=f"{OP_TYPE} nodes as paro-trt export writes them",
            actual=" ".join(str(error).split())[:160],
        ) from error
    return {
        "kind": "onnx",
        "file": str(path),
        "bytes": path.stat().st_size,
        "external_data": {name: (data / name).stat().st_size for name in external},
        "ir_version": model.ir_version,
        "opsets": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "metadata": {entry.key: entry.value for entry in model.metadata_props},
        "inputs": [_tensor(value) for value in graph.input],
        "outputs": [_tensor(value) for value in graph.output],
        "nodes": len(graph.node),
        "operators": dict(Counter(_operator(node) for node in graph.node).most_common()),
        "initializers": len(graph.initializer),
        "functions": [f"{function.domain}::{function.name}" for function in model.functions],
        "body": body_of(model).value,
        "paro_attention": attention,
    }


def _attention(node: onnx.NodeProto, constants: Constants) -> dict[str, Any]:
    attributes = attributes_of(node)
    description = {
        "name": node.name,
        "attributes": attributes,
        "density": _densities("block_mask", node, attributes, constants),
    }
    if attributes.get("fine_summaries"):
        description["fine"] = _densities("fine_mask", node, attributes, constants)
    for attribute, name in (("mean_correction", "corrected_heads"), ("routing", "dynamic_blocks")):
        if attributes.get(attribute):
            values = _constant(name, node, constants)
            description[name] = None if values is None else values.tolist()
    if attributes.get("smoothing"):
        signs = _constant("rotation", node, constants)
        description["rotated_heads"] = (
            None if signs is None else (signs[:, 0] != 0).astype(int).tolist()
        )
    return description


def _constant(name: str, node: onnx.NodeProto, constants: Constants) -> NDArray[Any] | None:
    """What an input of the op holds; None where it is computed."""
    return constants.get(node.input[_PLACES[name]])


def _densities(
    mask_name: str, node: onnx.NodeProto, attributes: dict[str, Any], constants: Constants
) -> list[float] | None:
    """Blocks of a mask / all blocks of each schedule bin; None where mask or order is computed."""
    mask, order = (_constant(name, node, constants) for name in (mask_name, "token_order"))
    if mask is None or order is None:
        return None
    bins, heads, query_blocks, _ = mask.shape
    attended = np.bitwise_count(mask.astype(np.int32).view(np.uint32)).sum(axis=(1, 2, 3))
    blocks = heads * query_blocks * block_count(order.shape[1], int(attributes["block_k"]))
    return [float(attended[index]) / blocks for index in range(bins)]


def _operator(node: onnx.NodeProto) -> str:
    return f"{node.domain}::{node.op_type}" if node.domain else str(node.op_type)


def _tensor(value: onnx.ValueInfoProto) -> dict[str, Any]:
    kind = value.type.tensor_type
    known = onnx.TensorProto.DataType.values()
    dtype = onnx.TensorProto.DataType.Name(kind.elem_type) if kind.elem_type in known else "?"
    return {
        "name": value.name,
        "dtype": dtype.lower(),
        "shape": [size.dim_param or size.dim_value for size in kind.shape.dim],
    }
