"""The mask's bits, unpacked by operators that every runtime has."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from paro_trt.onnx_export import Body
from paro_trt.onnx_export.bodies import attention_function
from paro_trt.onnx_export.bodies.builder import GraphBuilder, Value
from paro_trt.onnx_export.bodies.mask import unpacked_bits

from .single_node import session_of

UNKNOWN_TO_TENSORRT = {"BitwiseAnd", "BitwiseOr", "BitwiseNot", "BitShift", "Compress"}
"""Of the operators one could unpack bits by."""


def unpacking_model() -> onnx.ModelProto:
    graph = GraphBuilder(control_flow=False)
    bits = unpacked_bits(graph, Value(graph, "words"))
    model = helper.make_graph(
        graph.nodes,
        "unpack",
        [helper.make_tensor_value_info("words", TensorProto.INT32, ["a", "b", "c", "w"])],
        [helper.make_tensor_value_info(bits.name, TensorProto.BOOL, None)],
    )
    return helper.make_model(model, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize("runtime", ["ONNX Runtime", "reference"])
def test_words_of_all_bits(runtime: str, fresh_seed: int) -> None:
    rng = np.random.default_rng(fresh_seed)
    words = rng.integers(-(1 << 31), 1 << 31, (2, 3, 5, 7)).astype(np.int32)
    words[0, 0, 0, :3] = [-1, -(1 << 31), 0]
    model = unpacking_model()
    session = ReferenceEvaluator(model) if runtime == "reference" else session_of(model)
    bits = np.asarray(session.run(None, {"words": words})[0]).reshape(*words.shape, 32)
    expected = np.unpackbits(words.view(np.uint8), bitorder="little").reshape(bits.shape)
    np.testing.assert_array_equal(bits, expected.astype(bool))


def test_dense_body_has_operators_that_tensorrt_knows() -> None:
    kinds = {node.op_type for node in attention_function(Body.DENSE, 18).node}
    assert not kinds & UNKNOWN_TO_TENSORRT
