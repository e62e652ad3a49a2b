"""An exported ONNX file, read, checked and hashed before an engine is built from it."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import OnnxFileError
from ..files import sha256_of_files
from ..op.spec import DOMAIN, OP_TYPE, OP_VERSION, OP_VERSION_2, op_attributes, op_inputs
from .info import ExportInfo
from .read import (
    attributes_of,
    external_files,
    is_attention,
    next_to_its_data,
    op_version,
    read_onnx,
)
from .tensors import TensorSpec

if TYPE_CHECKING:
    import onnx

INT32 = range(-(1 << 31), 1 << 31)


@dataclass(frozen=True)
class OnnxSource:
    """A checked ONNX file.

    Args:
        path: the file.
        sha256: of the file and then of its external data files in the order of their names.
        info: its metadata: model, grid and plan.
        inputs: in the file's order.
        outputs: in the file's order.
        attention: names of its PAROAttention nodes.
        proto: the model without its external data.
    """

    path: Path
    sha256: str
    info: ExportInfo
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    attention: tuple[str, ...]
    proto: onnx.ModelProto


def read_source(path: str | PathLike[str], *, dense: bool = False) -> OnnxSource:
    """Read an exported file and check what building relies on.

    Args:
        path: the .onnx file; its external data is next to it.
        dense: the file is a baseline without PAROAttention.

    Raises:
        OnnxFileError: the file is damaged, was not made by `paro-trt export`, has no
            PAROAttention (or has some, with `dense`), or an attribute that TensorRT's parser
            would truncate or refuse.
    """
    path = Path(path)
    model = read_onnx(path)
    path = next_to_its_data(path, model)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    info = ExportInfo.from_metadata(str(path), metadata)
    nodes = [node for node in model.graph.node if is_attention(node)]
    _check_presence(path, model, len(nodes), dense)
    if bool(nodes) is not (info.plan_hash is not None):
        raise OnnxFileError(
            f"{path}: metadata",
            expected=f"a plan where there are {OP_TYPE} nodes, and none elsewhere",
            actual=f"{len(nodes)} nodes and {'a' if info.plan_hash else 'no'} plan",
            remedy="export the model again",
        )
    version = op_version(model)
    if nodes and version not in (OP_VERSION, OP_VERSION_2):
        raise OnnxFileError(
            f"{path}: version of the operators in domain {DOMAIN}",
            expected=f"{OP_VERSION} or {OP_VERSION_2}",
            actual=str(version or "none"),
            remedy="use the version of paro-trt that exported the file, or export again",
        )
    for node in nodes:
        _check_attributes(path, node, version)
        _check_version(path, node, version)
    return OnnxSource(
        path=path,
        sha256=sha256_of_files(path, *(path.parent / name for name in external_files(model))),
        info=info,
        inputs=tuple(_tensor(path, value) for value in model.graph.input),
        outputs=tuple(_tensor(path, value) for value in model.graph.output),
        attention=tuple(node.name for node in nodes),
        proto=model,
    )


def _check_presence(path: Path, model: Any, count: int, dense: bool) -> None:
    nested = sum(is_attention(node) for entry in model.functions for node in entry.node)
    if nested:
        raise OnnxFileError(
            str(path),
            expected=f"{OP_TYPE} nodes in the main graph",
            actual=f"{nested} inside local functions, where TensorRT never takes the plugin",
            remedy="inline the functions, or export again with paro-trt export",
        )
    if not count and not dense:
        raise OnnxFileError(
            str(path),
            expected=f"{DOMAIN}::{OP_TYPE} nodes",
            actual="none: a dense model",
            remedy="export with a plan, or say that a dense baseline is meant: --dense",
        )
    if count and dense:
        raise OnnxFileError(
            str(path),
            expected="a dense baseline",
            actual=f"{count} {OP_TYPE} nodes",
            remedy="leave out --dense",
        )


def _check_version(path: Path, node: Any, version: int) -> None:
    """TensorRT's parser reads the attribute alone, other runtimes the file's version alone."""
    actual = attributes_of(node).get("plugin_version", str(OP_VERSION)), len(node.input)
    expected = str(version), len(op_inputs(version))
    if actual != expected:
        raise OnnxFileError(
            f"{path}: {node.name or OP_TYPE}"[:200],
            expected=f"plugin_version {expected[0]} and {expected[1]} inputs, as of version "
            f"{version} of the op",
            actual=f"{str(actual[0])[:40]} and {actual[1]}",
            remedy="export again with paro-trt export",
        )


def _check_attributes(path: Path, node: Any, version: int) -> None:
    from onnx import AttributeProto

    subject = f"{path}: {node.name or OP_TYPE}"[:200]
    kinds = {int: AttributeProto.INT, float: AttributeProto.FLOAT, str: AttributeProto.STRING}
    attributes = op_attributes(version)
    wanted = {entry.name: kinds[entry.kind] for entry in attributes}
    found = {entry.name: entry for entry in node.attribute}
    required = [entry.name for entry in attributes if entry.default is None]
    missing = [name for name in required if name not in found]
    if missing:
        raise OnnxFileError(subject, expected=f"attribute {missing[0]}", actual="none")
    for name, attribute in found.items():
        if name not in wanted:
            raise OnnxFileError(
                subject,
                expected=f"attributes {', '.join(wanted)}",
                actual=f"{name[:60]!r}, which TensorRT's parser would drop",
            )
        if attribute.type != wanted[name]:
            raise OnnxFileError(
                f"{subject}: {name}",
                expected=AttributeProto.AttributeType.Name(wanted[name]),
                actual=AttributeProto.AttributeType.Name(attribute.type),
            )
        if attribute.type == AttributeProto.INT and attribute.i not in INT32:
            raise OnnxFileError(
                f"{subject}: {name}",
                expected="a 32-bit integer, all that TensorRT's parser passes on",
                actual=str(attribute.i),
                remedy="export again; the parser would silently truncate the value",
            )


def _tensor(path: Path, value: Any) -> TensorSpec:
    from onnx import helper

    kind = value.type.tensor_type
    try:
        dtype = str(helper.tensor_dtype_to_np_dtype(kind.elem_type))
    except KeyError:
        dtype = f"type {kind.elem_type}"
    shape = tuple(
        size.dim_param or (size.dim_value if size.HasField("dim_value") else "?")
        for size in kind.shape.dim
    )
    if "?" in shape or not kind.HasField("shape"):
        raise OnnxFileError(
            f"{path}: {value.name}"[:200],
            expected="sizes that are numbers or have names",
            actual=f"[{', '.join(map(str, shape))}]",
            remedy="export again with paro-trt export",
        )
    return TensorSpec(value.name, dtype, shape)
