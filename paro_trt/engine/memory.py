"""What an engine takes of a GPU's memory: in part known before it is built."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ArgumentError, OnnxFileError
from ..onnx_file.read import attributes_of, is_attention, op_version
from ..op.c_structs import DTYPE_CODES, CAttention, CLaunch, Status
from ..op.spec import INPUTS, VERSION_2_ATTRIBUTES, op_inputs
from .settings import BATCH, MEBIBYTE, BuildSettings

if TYPE_CHECKING:
    import onnx

_ANY_SM = 80
"""The workspace is the same on every GPU; without one to ask, it is asked for the oldest."""

_CONSTANTS = ("token_order", "head_order", "block_mask", "channel_affine")


@dataclass(frozen=True)
class BuilderMemory:
    """What TensorRT's log says of an engine; None where it does not.

    Args:
        weights: bytes.
        activations: bytes of one context at the largest shapes of each profile, in their order,
            workspaces included.
    """

    weights: int | None = None
    activations: tuple[int, ...] = ()

    @property
    def largest_activations(self) -> int | None:
        """Bytes of one context, which serves every profile."""
        return max(self.activations, default=None)


def builder_memory(messages: Iterable[str]) -> BuilderMemory:
    """The figures in a build's log."""
    found: dict[str, list[int]] = {"Activation": [], "Weights": []}
    for message in messages:
        line = re.match(r"Total (Activation|Weights) Memory: (\d+) bytes", message)
        if line:
            found[line[1]].append(int(line[2]))
    return BuilderMemory(max(found["Weights"], default=None), tuple(found["Activation"]))


def plugin_workspace(
    library: Path, path: Path, model: onnx.ModelProto, settings: BuildSettings
) -> int:
    """Bytes of workspace of the layer that needs most, at the largest batch.

    TensorRT lends one workspace to one layer after the other.

    Args:
        library: the plugin.
        path: the file, for messages.
        model: its content; constants of its PAROAttention nodes have the sizes.
        settings: the largest batch, and the limit of the workspace.

    Raises:
        ArgumentError: the limit is below what one head takes, or `settings.workspace` is below the
            plugin's need.
        OnnxFileError: the sizes of a PAROAttention node are not in the file.
    """
    ask = ctypes.CDLL(str(library))
    ask.paro_last_error.restype = ctypes.c_char_p
    limit = settings.max_workspace or 0
    launch = CLaunch(struct_size=ctypes.sizeof(CLaunch), sm=_ANY_SM, max_workspace=limit)
    needed = 0
    for call in _calls(path, model, settings.range_of(BATCH).max):
        size = ctypes.c_size_t()
        status = ask.paro_workspace_bytes(
            ctypes.byref(call), ctypes.byref(launch), ctypes.byref(size)
        )
        if status != Status.OK:
            raise ArgumentError(
                "max_workspace" if limit else str(path),
                expected="a call that the plugin's kernels take",
                actual=ask.paro_last_error().decode(),
                remedy="pass a larger --max-workspace, or none" if limit else "export again",
            )
        needed = max(needed, size.value)
    if settings.workspace is not None and settings.workspace < needed:
        raise ArgumentError(
            "workspace",
            expected=f"at least {-(-needed // MEBIBYTE)} MiB, which a PAROAttention layer takes at "
            f"the largest batch, {settings.range_of(BATCH).max}",
            actual=f"{settings.workspace // MEBIBYTE} MiB",
            remedy="raise --workspace, lower --batch, or pass --max-workspace",
        )
    return needed


def _calls(path: Path, model: onnx.ModelProto, batch: int) -> Iterable[CAttention]:
    """The op's calls without pointers, one for each node."""
    from onnx import helper

    shapes = {entry.name: tuple(entry.dims) for entry in model.graph.initializer}
    latents = model.graph.input[0].type.tensor_type.elem_type
    dtype = DTYPE_CODES[str(helper.tensor_dtype_to_np_dtype(latents))]
    for node in model.graph.node:
        if not is_attention(node):
            continue
        entries = op_inputs(op_version(model))
        names = dict(zip((entry.name for entry in entries), node.input, strict=True))
        sizes = [shapes.get(names[name], ()) for name in _CONSTANTS]
        ranks = [len(entry.shape) for entry in INPUTS if entry.name in _CONSTANTS]
        if [len(shape) for shape in sizes] != ranks:
            raise OnnxFileError(
                f"{path}: {node.name}",
                expected=f"{', '.join(_CONSTANTS)} as constants of the file",
                actual=f"shapes {', '.join(map(str, sizes))}",
                remedy="export again with paro-trt export",
            )
        (orders, tokens), (heads,), (bins, *_), (_, kv_heads, head_dim) = sizes
        said = attributes_of(node)
        options = ("block_q", "block_k", "qk_bits", "pv_bits")
        added = {entry.name: int(said.get(entry.name, 0)) for entry in VERSION_2_ATTRIBUTES}
        yield CAttention(
            struct_size=ctypes.sizeof(CAttention), batch=batch, tokens=tokens, heads=heads,
            kv_heads=kv_heads, head_dim=head_dim, orders=orders, bins=bins, dtype=dtype,
            pool_dropped=int(said.get("pool_dropped", 0)), scale=0.0,
            **{name: int(said[name]) for name in options}, **added,
        )  # fmt: skip
