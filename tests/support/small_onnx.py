"""A small ONNX model with the inputs and metadata of an exported one, for tests of sessions."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from paro_trt.onnx_file.info import ExportInfo
from paro_trt.plan import Grid, ModelIdentity

INFO = ExportInfo(
    ModelIdentity("WanTransformer3DModel", "ab" * 32), Grid(2, 8, 8), "cd" * 32, (700.0, 250.0)
)


def small_onnx(
    info: ExportInfo | None = INFO,
    float_type: int = TensorProto.FLOAT,
    batch: str | None = "batch",
) -> onnx.ModelProto:
    """sample = hidden_states + timestep + 10000 * mask_bin + mean(encoder_hidden_states).

    Latents [batch, 4, 2, 16, 16], text [batch, text_tokens, 16].
    """
    nodes = [
        helper.make_node("Cast", ["mask_bin"], ["bin_f"], to=float_type),
        helper.make_node("Cast", ["timestep"], ["timestep_f"], to=float_type),
        helper.make_node("Mul", ["bin_f", "weight"], ["weighted"]),
        helper.make_node("Add", ["timestep_f", "weighted"], ["scalars"]),
        helper.make_node("ReduceMean", ["encoder_hidden_states", "axes"], ["text"], keepdims=0),
        helper.make_node("Add", ["scalars", "text"], ["offset"]),
        helper.make_node("Reshape", ["offset", "shape"], ["offset_5d"]),
        helper.make_node("Add", ["hidden_states", "offset_5d"], ["sample"]),
    ]
    latents = [batch, 4, 2, 16, 16]
    weight = np.array([10000.0], helper.tensor_dtype_to_np_dtype(float_type))
    graph = helper.make_graph(
        nodes,
        "small",
        [
            helper.make_tensor_value_info("hidden_states", float_type, latents),
            helper.make_tensor_value_info("timestep", TensorProto.FLOAT, [batch]),
            helper.make_tensor_value_info(
                "encoder_hidden_states", float_type, [batch, "text_tokens", 16]
            ),
            helper.make_tensor_value_info("mask_bin", TensorProto.INT32, [batch]),
        ],
        [helper.make_tensor_value_info("sample", float_type, latents)],
        [
            numpy_helper.from_array(weight, "weight"),
            numpy_helper.from_array(np.array([1, 2]), "axes"),
            numpy_helper.from_array(np.array([-1, 1, 1, 1, 1]), "shape"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    if info is not None:
        helper.set_model_props(model, info.to_metadata())
    return model
