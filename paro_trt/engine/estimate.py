"""What an engine will take of a GPU's memory, estimated from its file before it is built.

Activations are counted as if each operator wrote its result to memory of its own and kept it until
its last use. A builder fuses operators, which takes less, and computes independent branches side by
side, which takes more: a margin is for that, and docs/tensorrt.md compares the two.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BackendUnavailableError
from ..onnx_file.read import is_attention, read_onnx
from .manifest import MemoryRecord
from .manifest_file import found_manifest, read_manifest
from .memory import plugin_workspace
from .plugin_library import find_plugin
from .settings import BuildSettings

if TYPE_CHECKING:
    import onnx

_VIEWS = ("Reshape", "Unsqueeze", "Squeeze", "Identity")
"""Operators whose result is their first input's memory."""

_MARGIN = 4 / 3
"""TensorRT for RTX 1.7.1 took 0.8 to 1.4 times the count, and the workspace, for four models."""

_SIZE = re.compile(r"(?:(\d+)\*)?([A-Za-z_]\w*)")


def memory_of_file(path: Path, settings: BuildSettings) -> tuple[MemoryRecord, str]:
    """What an engine takes, or that of an exported file will take, and who says so.

    Args:
        path: an engine with its manifest next to it, or an ONNX file.
        settings: of the build, for an ONNX file.

    Raises:
        OnnxFileError, EngineError: the file or its manifest is damaged.
    """
    if found_manifest(path).is_file():
        memory = read_manifest(found_manifest(path)).memory
        return memory or MemoryRecord(None, None, None), "as its builder counts them"
    model = read_onnx(path)
    try:
        library: Path | None = find_plugin().path
    except BackendUnavailableError:
        library = None
    has_attention = any(is_attention(node) for node in model.graph.node)
    workspace = (
        plugin_workspace(library, path, model, settings) if library and has_attention else None
    )
    said = "estimated, not measured"
    if has_attention and workspace is None:
        said += "; without the plugin, which is not here, its workspace is not known"
    return estimate_memory(model, settings, workspace), said


def estimate_memory(
    model: onnx.ModelProto, settings: BuildSettings, workspace: int | None
) -> MemoryRecord:
    """Weights, activations at the largest sizes, and the plugin's workspace.

    Args:
        model: of an exported file; activations are None where it lacks the shape of a tensor.
        settings: ranges of free sizes.
        workspace: bytes that a PAROAttention layer takes; None where it is not known.
    """
    weights = sum(_bytes(tensor.data_type, tensor.dims) for tensor in model.graph.initializer)
    return MemoryRecord(weights, _activations(model, settings, workspace or 0), workspace)


def _activations(model: onnx.ModelProto, settings: BuildSettings, workspace: int) -> int | None:
    """The most that tensors which are still needed take together, while the nodes run in order."""
    graph = model.graph
    sizes = _sizes(graph, settings)
    constants = {tensor.name for tensor in graph.initializer}
    outside = constants | {value.name for value in (*graph.input, *graph.output)}
    owner: dict[str, str] = {}
    last: dict[str, int] = {}
    for index, node in enumerate(graph.node):
        for name in node.input:
            last[owner.get(name, name)] = index
        if node.op_type in _VIEWS:
            owner[node.output[0]] = owner.get(node.input[0], node.input[0])
    live: dict[str, int] = {}
    most = 0
    for index, node in enumerate(graph.node):
        for name in node.output:
            if name and name not in outside and name not in owner:
                size = sizes.get(name)
                if size is None:
                    return None
                live[name] = size
        most = max(most, sum(live.values()))
        live = {name: size for name, size in live.items() if last.get(name, -1) > index}
    # Builders set workspaces apart, for as long as there is a context.
    return round(_MARGIN * most) + workspace


def _sizes(graph: onnx.GraphProto, settings: BuildSettings) -> Mapping[str, int | None]:
    sizes: dict[str, int | None] = {}
    for value in graph.value_info:
        kind = value.type.tensor_type
        dims = [
            _size_of(dim.dim_param, settings) if dim.dim_param else dim.dim_value
            for dim in kind.shape.dim
        ]
        known = kind.HasField("shape") and None not in dims
        sizes[value.name] = _bytes(kind.elem_type, [dim or 0 for dim in dims]) if known else None
    return sizes


def _size_of(text: str, settings: BuildSettings) -> int | None:
    """The largest value of a free size, or of a multiple of one."""
    match = _SIZE.fullmatch(text.replace(" ", ""))
    return int(match[1] or 1) * settings.range_of(match[2]).max if match else None


def _bytes(kind: int, dims: object) -> int:
    from onnx import helper

    size: int = helper.tensor_dtype_to_np_dtype(kind).itemsize * math.prod(dims)  # type: ignore[call-overload]
    return size
