"""What the parser is given computes what the file does."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from paro_trt.engine.parser_input import for_function_body, for_plugin
from paro_trt.engine.source import read_source
from paro_trt.onnx_export import Body

from .conftest import with_attention


def test_rewritten_mask_computes_the_same(tmp_path, fresh_seed):
    """The whole model, by the function as exported and as rewritten."""
    rng = np.random.default_rng(fresh_seed)
    model = with_attention(onnx.TensorProto.FLOAT)
    (mask,) = [entry for entry in model.graph.initializer if entry.name == "block_mask"]
    words = rng.integers(1, 4, (3, 2, 2, 1)).astype(np.int32)
    mask.CopyFrom(onnx.numpy_helper.from_array(words, "block_mask"))
    onnx.save(model, tmp_path / "m.onnx")
    source = read_source(tmp_path / "m.onnx")
    rewritten = for_function_body(source)
    operators = {n.op_type for f in onnx.load_from_string(rewritten).functions for n in f.node}
    assert "BitwiseAnd" not in operators
    inputs = {
        "hidden_states": rng.normal(0.3, 1, (3, 4, 2, 16, 16)).astype(np.float32),
        "timestep": rng.uniform(0, 1000, 3).astype(np.float32),
        "encoder_hidden_states": rng.normal(size=(3, 2, 16)).astype(np.float32),
        "mask_bin": np.array([0, 1, 2], np.int32),
    }
    results = [
        onnxruntime.InferenceSession(content).run(None, inputs)[0]
        for content in (source.proto.SerializeToString(), rewritten)
    ]
    np.testing.assert_array_equal(*results)


def test_words_of_all_bits():
    """The arithmetic alone, on words that use every bit."""
    from onnx import TensorProto, helper

    from paro_trt.engine.parser_input import _replace_bitwise_and

    function = helper.make_function(
        "d", "f", ["w", "s"], ["bits"], [helper.make_node("BitwiseAnd", ["w", "s"], ["bits"])],
        [helper.make_opsetid("", 18)],
    )  # fmt: skip
    _replace_bitwise_and(function)
    graph = helper.make_graph(
        [helper.make_node("f", ["w", "s"], ["bits"], domain="d")],
        "g",
        [helper.make_tensor_value_info("w", TensorProto.INT32, ["n", 1]),
         helper.make_tensor_value_info("s", TensorProto.INT32, [32])],
        [helper.make_tensor_value_info("bits", TensorProto.INT32, None)],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("d", 1)]
    model = helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=10)
    words = np.random.default_rng().integers(-(1 << 31), 1 << 31, (64, 1)).astype(np.int32)
    words[:3, 0] = [-1, -(1 << 31), 0]
    single = (1 << np.arange(32)).astype(np.uint32).view(np.int32)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (bits,) = session.run(None, {"w": words, "s": single})
    np.testing.assert_array_equal(bits != 0, (words & single) != 0)


@pytest.mark.parametrize("body", [Body.SPARSE, Body.DENSE, Body.NONE])
def test_plugin_gets_no_function_and_the_file_stays(tmp_path, body):
    onnx.save(with_attention(body=body), tmp_path / "m.onnx")
    source = read_source(tmp_path / "m.onnx")
    assert not onnx.load_from_string(for_plugin(source)).functions
    assert len(source.proto.functions) == (body is not Body.NONE)
