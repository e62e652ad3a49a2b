"""An ONNX file as plain values, and those as tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import output

NODE, DOMAIN = "PAROAttention", "paro"
_COMMON_OPERATORS = 8


def describe_onnx(path: Path) -> dict[str, Any]:
    """What an ONNX file holds; weights stay on the disk.

    Raises:
        OnnxFileError: the file or its external data is missing, truncated or damaged.
    """
    import onnx

    from ..runtime.onnxruntime_session import check_onnx_file

    check_onnx_file(path)
    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    nodes = [node for node in graph.node if (node.op_type, node.domain) == (NODE, DOMAIN)]
    external = _external_files(model)
    return {
        "kind": "onnx",
        "file": str(path),
        "bytes": path.stat().st_size,
        "external_data": {name: (path.parent / name).stat().st_size for name in external},
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
        "paro_attention": [_attention(node) for node in nodes],
    }


def show_onnx(document: Mapping[str, Any]) -> None:
    """Print a description of an ONNX file."""
    output.print_facts(f"ONNX model {document['file']}", _facts(document))
    console = output.results()
    tensors = output.table("inputs and outputs", "", "name", "type", "shape")
    for direction in ("inputs", "outputs"):
        for tensor in document[direction]:
            tensors.add_row(direction[:-1], tensor["name"], tensor["dtype"], _shape(tensor))
    console.print(tensors)
    if document["paro_attention"]:
        console.print(_attention_table(document["paro_attention"]))


def _attention_table(nodes: list[dict[str, Any]]):  # type: ignore[no-untyped-def]
    """Nodes whose attributes are the same share a row."""
    made = output.table(f"{NODE} nodes", "nodes", "attributes")
    groups: dict[str, list[str]] = {}
    for node in nodes:
        text = ", ".join(f"{name} {value!r}" for name, value in node["attributes"].items())
        groups.setdefault(text, []).append(node["name"])
    for attributes, names in groups.items():
        label = names[0] if len(names) == 1 else f"{len(names)}: {names[0]} .. {names[-1]}"
        made.add_row(label, attributes)
    return made


def _facts(document: Mapping[str, Any]) -> dict[str, object]:
    operators = list(document["operators"].items())
    shown = ", ".join(f"{name} {count}" for name, count in operators[:_COMMON_OPERATORS])
    rest = len(operators) - _COMMON_OPERATORS
    data = document["external_data"].items()
    size = output.file_size(document["bytes"])
    count = len(document["paro_attention"])
    body = f"{DOMAIN}::{NODE}" in document["functions"]
    return {
        "size": size + "".join(f" + {output.file_size(n)} in {name}" for name, n in data),
        "made by": f"{document['producer']}, IR version {document['ir_version']}",
        "opsets": ", ".join(f"{name} {version}" for name, version in document["opsets"].items()),
        "nodes": f"{document['nodes']}: {shown}" + (f" and {rest} more" if rest > 0 else ""),
        "initializers": document["initializers"],
        NODE: f"{count} nodes, {'with' if body else 'without'} a function body"
        if count
        else "none: a dense model",
        **document["metadata"],
    }


def _external_files(model: Any) -> list[str]:
    entries = [entry for tensor in model.graph.initializer for entry in tensor.external_data]
    return sorted({entry.value for entry in entries if entry.key == "location"})


def _operator(node: Any) -> str:
    return f"{node.domain}::{node.op_type}" if node.domain else str(node.op_type)


def _attention(node: Any) -> dict[str, Any]:
    import onnx

    values = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
    readable = {
        name: value.decode() if isinstance(value, bytes) else value
        for name, value in values.items()
    }
    return {"name": node.name, "attributes": readable}


def _tensor(value: Any) -> dict[str, Any]:
    import onnx

    kind = value.type.tensor_type
    return {
        "name": value.name,
        "dtype": onnx.TensorProto.DataType.Name(kind.elem_type).lower(),
        "shape": [size.dim_param or size.dim_value for size in kind.shape.dim],
    }


def _shape(tensor: Mapping[str, Any]) -> str:
    return " x ".join(map(str, tensor["shape"]))
