"""A description of an ONNX file as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..op.spec import DOMAIN, OP_TYPE
from . import output

if TYPE_CHECKING:
    from rich.table import Table

_COMMON_OPERATORS = 8
"""Operators listed by name; the rest are counted."""


def show_onnx(document: Mapping[str, Any]) -> None:
    """Print what `paro_trt.onnx_file.describe.describe_onnx` says of a file."""
    output.print_facts(f"ONNX model {document['file']}", _facts(document))
    console = output.results()
    tensors = output.table("inputs and outputs", "", "name", "type", "shape")
    for direction in ("inputs", "outputs"):
        for tensor in document[direction]:
            shape = " x ".join(map(str, tensor["shape"]))
            tensors.add_row(direction[:-1], tensor["name"], tensor["dtype"], shape)
    console.print(tensors)
    if document["paro_attention"]:
        console.print(_attention_table(document["paro_attention"]))


def _attention_table(nodes: Sequence[Mapping[str, Any]]) -> Table:
    names = ("qk_bits", "pv_bits", "block_q", "block_k", "pool_dropped", "scale")
    columns = ("density of bins", *names)
    made = output.table(f"{OP_TYPE} nodes", "layer", *columns, right=columns)
    for node in nodes:
        density = node["density"]
        shown = "computed" if density is None else "  ".join(f"{share:.3f}" for share in density)
        values = (node["attributes"].get(name, "-") for name in names)
        made.add_row(
            node["name"].removesuffix(f"/{OP_TYPE}"),
            shown,
            *(f"{value:g}" if isinstance(value, float) else str(value) for value in values),
        )
    return made


def _facts(document: Mapping[str, Any]) -> dict[str, object]:
    operators = list(document["operators"].items())
    shown = ", ".join(f"{name} {count}" for name, count in operators[:_COMMON_OPERATORS])
    rest = len(operators) - _COMMON_OPERATORS
    data = document["external_data"].items()
    size = output.file_size(document["bytes"])
    count = len(document["paro_attention"])
    return {
        "size": size + "".join(f" + {output.file_size(n)} in {name}" for name, n in data),
        "made by": f"{document['producer']}, IR version {document['ir_version']}",
        "opsets": ", ".join(f"{name} {version}" for name, version in document["opsets"].items()),
        "nodes": f"{document['nodes']}: {shown}" + (f" and {rest} more" if rest > 0 else ""),
        "initializers": document["initializers"],
        f"{DOMAIN}::{OP_TYPE}": f"{count} nodes, function body: {document['body']}"
        if count
        else "none: a dense model",
        **document["metadata"],
    }
