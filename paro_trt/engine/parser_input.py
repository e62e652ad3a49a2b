"""What TensorRT's parser is given: the file, with its PAROAttention function settled.

Which of plugin and function the parser takes depends on its release: the function before 10.7 and
from 10.15 on, unless a node names the plugin's namespace. Without the function there is no choice.
"""

from __future__ import annotations

from ..errors import OnnxFileError
from ..op.spec import DOMAIN, OP_TYPE
from .source import OnnxSource


def for_plugin(source: OnnxSource) -> bytes:
    """The model without the function: PAROAttention can only be the plugin."""
    model = type(source.proto)()
    model.CopyFrom(source.proto)
    kept = [entry for entry in model.functions if (entry.domain, entry.name) != (DOMAIN, OP_TYPE)]
    del model.functions[:]
    model.functions.extend(kept)
    return bytes(model.SerializeToString())


def for_function_body(source: OnnxSource) -> bytes:
    """The model as it is, its function of operators that TensorRT knows.

    The sparse body is not: its loop lists a varying number of key blocks. TensorRT's parser has no
    Compress; with TopK in its place the builder made no engine [tensorrt_rtx 1.7, 2026-11-24].

    Raises:
        OnnxFileError: the file carries no function, or the sparse one.
    """
    from ..onnx_export.bodies import Body, body_of

    body = body_of(source.proto)
    if source.attention and body is not Body.DENSE:
        raise OnnxFileError(
            str(source.path),
            expected="the dense function body, for a TensorRT without the plugin",
            actual="the sparse one" if body is Body.SPARSE else "none",
            remedy="export again with --body dense",
        )
    return bytes(source.proto.SerializeToString())
