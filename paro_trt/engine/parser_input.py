"""The model that TensorRT's parser reads: the file, with or without its PAROAttention function.

If a file has both the plugin's node and a function, the release decides which one the parser takes.
Before 10.7 and from 10.15 on it takes the function, unless the node names the plugin's namespace.
Without the function, it can only take the plugin.
"""

from __future__ import annotations

from ..errors import OnnxFileError
from ..onnx_file.read import Body, body_of, check_rotations
from ..onnx_file.source import OnnxSource
from ..op.spec import DOMAIN, OP_TYPE
from .plugin_library import MAX_WORKSPACE
from .settings import MEBIBYTE

PLUGIN_DTYPES = ("float16", "bfloat16")


def check_plugin_dtypes(source: OnnxSource) -> None:
    """Raise OnnxFileError if attention computes in a type that the plugin does not support."""
    latents = source.inputs[0]
    if source.attention and latents.dtype not in PLUGIN_DTYPES:
        raise OnnxFileError(
            f"{source.path}: {latents.name}",
            expected=f"{' or '.join(PLUGIN_DTYPES)}, which the plugin computes in",
            actual=latents.dtype,
            remedy="export again with --dtype bfloat16 or float16",
        )


def for_plugin(source: OnnxSource, max_workspace: int | None = None) -> bytes:
    """The model without the function: PAROAttention can only be the plugin.

    Args:
        source: the file.
        max_workspace: bytes, whole MiB, that a layer may take; None for all heads at once.
    """
    from onnx import AttributeProto

    model = type(source.proto)()
    model.CopyFrom(source.proto)
    kept = [entry for entry in model.functions if (entry.domain, entry.name) != (DOMAIN, OP_TYPE)]
    del model.functions[:]
    model.functions.extend(kept)
    for node in model.graph.node:
        if (node.domain, node.op_type) == (DOMAIN, OP_TYPE):
            # Given even if it is the default: the parser warns of fields that a node lacks.
            node.attribute.add(
                name=MAX_WORKSPACE, type=AttributeProto.INT, i=(max_workspace or 0) // MEBIBYTE
            )
    return bytes(model.SerializeToString())


def for_function_body(source: OnnxSource) -> bytes:
    """The unchanged model, in which a function of standard operators computes PAROAttention.

    TensorRT cannot run the sparse body, whose loop lists a varying number of key blocks: its parser
    does not support Compress. With TopK instead, the builder produced no engine [tensorrt_rtx 1.7,
    2026-11-24].

    Raises:
        OnnxFileError: the file carries no function, the sparse one, or one that rotates heads of
            its nodes wrongly.
    """
    check_rotations(source.path, source.proto)
    body = body_of(source.proto)
    if source.attention and body is not Body.DENSE:
        raise OnnxFileError(
            str(source.path),
            expected="the dense function body, for a TensorRT without the plugin",
            actual="the sparse one" if body is Body.SPARSE else "none",
            remedy="export again with --body dense, or build with the plugin",
        )
    return bytes(source.proto.SerializeToString())
