"""The ONNX file an engine is built from: read, checked and hashed before TensorRT sees it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import OnnxFileError
from ..onnx_file.info import SessionInfo
from ..op.spec import ATTRIBUTES, DOMAIN, OP_TYPE
from .profile import TensorInfo

if TYPE_CHECKING:
    import onnx

HASH_CHUNK = 1 << 20
INT32 = range(-(1 << 31), 1 << 31)

_PLUGIN_DTYPES = ("float16", "bfloat16")
_REQUIRED = tuple(entry.name for entry in ATTRIBUTES if entry.default is None)


@dataclass(frozen=True)
class OnnxSource:
    """A checked ONNX file.

    Args:
        path: the file.
        sha256: of the file and then of its external data files in the order of their names.
        info: what the file says of its model and plan.
        inputs: in the file's order.
        outputs: in the file's order.
        attention: names of its PAROAttention nodes.
        proto: the model without its external data.
    """

    path: Path
    sha256: str
    info: SessionInfo
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    attention: tuple[str, ...]
    proto: onnx.ModelProto


def read_source(path: str | PathLike[str], *, dense: bool = False) -> OnnxSource:
    """Read an exported file and check what building relies on.

    Args:
        path: the .onnx file; its external data lies beside it.
        dense: the file is a baseline without PAROAttention.

    Raises:
        OnnxFileError: the file is damaged, was not made by `paro-trt export`, has no
            PAROAttention (or has some, with `dense`), or an attribute that TensorRT's parser
            would truncate or refuse.
    """
    import onnx

    from ..runtime.onnxruntime_session import check_onnx_file

    path = Path(path)
    check_onnx_file(path)
    model = onnx.load(path, load_external_data=False)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    info = SessionInfo.from_metadata(str(path), metadata)
    nodes = [node for node in model.graph.node if _is_attention(node)]
    _check_presence(path, model, len(nodes), dense)
    if bool(nodes) is not (info.plan_hash is not None):
        raise OnnxFileError(
            f"{path}: metadata",
            expected=f"a plan where there are {OP_TYPE} nodes, and none elsewhere",
            actual=f"{len(nodes)} nodes and {'a' if info.plan_hash else 'no'} plan",
            remedy="export the model again",
        )
    for node in nodes:
        _check_attributes(path, node)
    return OnnxSource(
        path=path,
        sha256=_hash_files(path, model),
        info=info,
        inputs=tuple(_tensor(path, value) for value in model.graph.input),
        outputs=tuple(_tensor(path, value) for value in model.graph.output),
        attention=tuple(node.name for node in nodes),
        proto=model,
    )


def check_plugin_dtypes(source: OnnxSource) -> None:
    """Raise OnnxFileError if attention computes in a type that the plugin does not take."""
    latents = source.inputs[0]
    if source.attention and latents.dtype not in _PLUGIN_DTYPES:
        raise OnnxFileError(
            f"{source.path}: {latents.name}",
            expected=f"{' or '.join(_PLUGIN_DTYPES)}, which the plugin computes in",
            actual=latents.dtype,
            remedy="export again with --dtype float16",
        )


def _is_attention(node: Any) -> bool:
    return (node.domain, node.op_type) == (DOMAIN, OP_TYPE)


def _check_presence(path: Path, model: Any, count: int, dense: bool) -> None:
    nested = sum(_is_attention(node) for entry in model.functions for node in entry.node)
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


def _check_attributes(path: Path, node: Any) -> None:
    from onnx import AttributeProto

    subject = f"{path}: {node.name or OP_TYPE}"[:200]
    kinds = {int: AttributeProto.INT, float: AttributeProto.FLOAT, str: AttributeProto.STRING}
    wanted = {entry.name: kinds[entry.kind] for entry in ATTRIBUTES}
    found = {entry.name: entry for entry in node.attribute}
    missing = [name for name in _REQUIRED if name not in found]
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
                remedy="export again; the value would be truncated without a word",
            )


def _tensor(path: Path, value: Any) -> TensorInfo:
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
    return TensorInfo(value.name, dtype, shape)


def _hash_files(path: Path, model: Any) -> str:
    locations = {
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    digest = hashlib.sha256()
    for file in (path, *(path.parent / name for name in sorted(locations))):
        with file.open("rb") as stream:
            while chunk := stream.read(HASH_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()
