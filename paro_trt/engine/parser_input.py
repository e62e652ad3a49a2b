"""What TensorRT's parser is given: the file, with its PAROAttention function settled.

Which of plugin and function the parser takes depends on its release: the function before 10.7 and
from 10.15 on, unless a node names the plugin's namespace. Without the function there is no choice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import OnnxFileError
from ..op.spec import DOMAIN, MASK_WORD_BITS, OP_TYPE
from .source import OnnxSource

if TYPE_CHECKING:
    import onnx

SPARSE_ONLY = ("Compress", "Loop")
"""Operators of the sparse body; TensorRT's parser has no Compress."""


def for_plugin(source: OnnxSource) -> bytes:
    """The model without the function: PAROAttention can only be the plugin."""
    model = _copy(source.proto)
    kept = [entry for entry in model.functions if (entry.domain, entry.name) != (DOMAIN, OP_TYPE)]
    del model.functions[:]
    model.functions.extend(kept)
    return bytes(model.SerializeToString())


def for_function_body(source: OnnxSource) -> bytes:
    """The model with a function of operators that TensorRT's parser knows.

    Raises:
        OnnxFileError: the file carries no function, or the sparse one.
    """
    model = _copy(source.proto)
    if source.attention:
        function = next(
            (entry for entry in model.functions if (entry.domain, entry.name) == (DOMAIN, OP_TYPE)),
            None,
        )
        operators = {node.op_type for node in function.node} if function else set()
        if function is None or operators.intersection(SPARSE_ONLY):
            raise OnnxFileError(
                str(source.path),
                expected="the dense function body, for a TensorRT without the plugin",
                actual="the sparse one" if function else "none",
                remedy="export again with --body dense",
            )
        _replace_bitwise_and(function)
    return bytes(model.SerializeToString())


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = type(model)()
    copy.CopyFrom(model)
    return copy


def _replace_bitwise_and(function: Any) -> None:
    """The mask's `word & (1 << bit) != 0` as `word mod (2 << bit) >= (1 << bit)`, in INT64.

    TensorRT's parser has no BitwiseAnd [tensorrt_rtx 1.7, measured 2026-11-24]. ONNX's Mod takes
    the divisor's sign, so that negative words (bit 31) come out as their unsigned value would.
    """
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    bits = 1 << np.arange(MASK_WORD_BITS, dtype=np.int64)
    constants = {"paro_single_bits": bits, "paro_next_bits": 2 * bits}
    nodes: list[Any] = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(values, name))
        for name, values in constants.items()
    ]
    for node in function.node:
        if node.op_type != "BitwiseAnd":
            nodes.append(node)
            continue
        words, result = node.input[0], node.output[0]
        wide, rest, test = (f"{result}_{part}" for part in ("wide", "rest", "test"))
        nodes += [
            helper.make_node("Cast", [words], [wide], to=TensorProto.INT64),
            helper.make_node("Mod", [wide, "paro_next_bits"], [rest]),
            helper.make_node("GreaterOrEqual", [rest, "paro_single_bits"], [test]),
            helper.make_node("Cast", [test], [result], to=TensorProto.INT32),
        ]
    del function.node[:]
    function.node.extend(nodes)
