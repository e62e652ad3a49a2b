"""Rotation and codes of smoothed keys in ONNX Runtime, with its optimizer: every bit."""

from __future__ import annotations

from collections.abc import Callable

import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from paro_trt.onnx_export.bodies.builder import GraphBuilder, Value
from paro_trt.onnx_export.bodies.quantize import quantized_apart
from paro_trt.onnx_export.bodies.smooth import Smoothing
from paro_trt.op.quantization import quantize_keys_apart
from paro_trt.op.smoothing import rotate

BODIES = pytest.mark.parametrize("control_flow", [True, False], ids=["sparse", "dense"])


def computed(
    control_flow: bool, x: torch.Tensor, write: Callable[[GraphBuilder, Value], list[Value]]
) -> list[torch.Tensor]:
    """What `write` computes of x in ONNX Runtime."""
    graph = GraphBuilder(control_flow=control_flow)
    outputs = write(graph, Value(graph, "x"))
    infos = [helper.make_tensor_value_info(y.name, TensorProto.FLOAT, None) for y in outputs]
    source = helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)
    model = helper.make_model(
        helper.make_graph(graph.nodes, "bits", [source], infos),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return [torch.from_numpy(y) for y in session.run(None, {"x": x.numpy()})]


@BODIES
@pytest.mark.parametrize("head_dim", [64, 128])
def test_rotated_channels(control_flow: bool, head_dim: int, fresh_seed: int) -> None:
    generator = torch.Generator().manual_seed(fresh_seed)
    x = torch.randn(500, head_dim, generator=generator)
    signs = torch.randint(0, 2, (head_dim,), generator=generator) * 2 - 1

    def write(graph: GraphBuilder, rows: Value) -> list[Value]:
        size = graph.op("Shape", rows).take(1)
        yes = graph.constant(1).cast(TensorProto.BOOL)
        smoothing = Smoothing(graph, yes, size, rows, yes, size)
        return [smoothing.rotate(rows, graph.constant(signs.float().tolist()), yes)]

    (actual,) = computed(control_flow, x, write)
    assert torch.equal(actual, rotate(x, signs))


def test_codes_of_keys_apart(fresh_seed: int) -> None:
    generator = torch.Generator().manual_seed(fresh_seed)
    x = torch.randn(20_000, 64, generator=generator)
    # Halves of the scale: most of them are within rounding of the edge between two codes.
    x[:10_000, :16] = quantize_keys_apart(x[:10_000], 4).scale * (torch.arange(16) / 2 - 3.5)
    x[5] = 0
    x[6, 3] = float("nan")

    def write(graph: GraphBuilder, rows: Value) -> list[Value]:
        return list(quantized_apart(graph, rows, 7.0))

    codes, scale = computed(True, x, write)
    expected = quantize_keys_apart(x, 4)
    assert torch.equal(scale.nan_to_num(-1), expected.scale.nan_to_num(-1))
    finite = scale[:, 0].isfinite()
    assert torch.equal(codes[finite], expected.codes[finite])
