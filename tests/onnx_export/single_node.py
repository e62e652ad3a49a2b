"""Models of one PAROAttention node with its local function, and a way to run them."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper

from paro_trt.onnx_export import Body
from paro_trt.onnx_export.bodies import Features, attention_function
from paro_trt.op.spec import (
    DOMAIN,
    OP_TYPE,
    OP_VERSION_2,
    PLUGIN_NAMESPACE,
    AttentionConfig,
    AttentionInputs,
    op_inputs,
)
from tests.support.cases import OpCase, node_inputs
from tests.support.numerics import compare

ELEMENT_TYPES = {
    torch.float32: TensorProto.FLOAT,
    torch.float16: TensorProto.FLOAT16,
    torch.int32: TensorProto.INT32,
}


def single_node_model(
    body: Body, inputs: AttentionInputs, config: AttentionConfig, opset: int = 18
) -> onnx.ModelProto:
    """All inputs of the node are graph inputs; the batch is symbolic."""
    infos = []
    for entry, tensor in zip(
        op_inputs(config.version), node_inputs(inputs, config.version), strict=True
    ):
        shape = ["B" if s == "B" else n for s, n in zip(entry.shape, tensor.shape, strict=True)]
        infos.append(helper.make_tensor_value_info(entry.name, ELEMENT_TYPES[tensor.dtype], shape))
    output = helper.make_tensor_value_info(
        "output", ELEMENT_TYPES[inputs.query.dtype], ["B", *inputs.query.shape[1:]]
    )
    features = features_of_config(config)
    used = {name: int(value) for name, value in features._asdict().items()}
    node = helper.make_node(
        OP_TYPE,
        [entry.name for entry in op_inputs(config.version)],
        ["output"],
        domain=DOMAIN,
        scale=config.scale,
        block_q=config.block_q,
        block_k=config.block_k,
        qk_bits=config.qk_bits,
        pv_bits=config.pv_bits,
        pool_dropped=int(config.pool_dropped),
        plugin_version=str(config.version),
        plugin_namespace=PLUGIN_NAMESPACE,
        **(used if config.version == OP_VERSION_2 else {}),
    )
    return helper.make_model(
        helper.make_graph([node], "single", infos, [output]),
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, config.version)],
        functions=[attention_function(body, opset, features)],
        ir_version=10,
    )


def features_of_config(config: AttentionConfig) -> Features:
    return Features(config.fine_summaries, config.mean_correction, config.routing, config.smoothing)


def session_of(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def feed_of(
    inputs: AttentionInputs,
    session: onnxruntime.InferenceSession | None = None,
    config: AttentionConfig | None = None,
) -> dict[str, np.ndarray]:
    """ORT drops inputs that a body does not read (the schedule); it refuses to be fed them.

    config: of the node; None: of version 1.
    """
    config = config or AttentionConfig()
    tensors = zip(op_inputs(config.version), node_inputs(inputs, config.version), strict=True)
    feed = {entry.name: tensor.numpy() for entry, tensor in tensors}
    if session is None:
        return feed
    return {entry.name: feed[entry.name] for entry in session.get_inputs()}


def run_with_onnxruntime(
    body: Body, inputs: AttentionInputs, config: AttentionConfig, opset: int = 18
) -> torch.Tensor:
    session = session_of(single_node_model(body, inputs, config, opset))
    return torch.from_numpy(session.run(None, feed_of(inputs, session, config))[0])


EVERYTHING = OpCase(
    "everything-at-once",
    203,
    batch=4,
    heads=4,
    kv_heads=2,
    head_dim=24,
    bins=3,
    key_length=(203, 150, 64, 0),
    empty_rows=True,
    config=AttentionConfig(block_q=128, block_k=64),
)
"""Grouped, ragged, padded, several bins, empty mask rows, a sample without tokens."""


def assert_matches_reference(
    actual: torch.Tensor, inputs: AttentionInputs, config: AttentionConfig
) -> None:
    assert actual.dtype == inputs.query.dtype
    comparison = compare(actual, inputs, config)
    assert comparison.ok, comparison
