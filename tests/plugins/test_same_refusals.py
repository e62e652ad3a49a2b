"""A bad call is refused in the same words by Python and by the native libraries.

The native side is `describe_call` and the checks of the C ABI, reached through ONNX Runtime.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument

from paro_trt.errors import ArgumentError
from paro_trt.op.spec import AttentionConfig, AttentionInputs
from paro_trt.op.validate import validate
from tests.plugins.test_onnxruntime_op import feed_of, native_session, node_model
from tests.support.cases import OpCase, random_inputs

CASE = OpCase("refused", 200, batch=2, heads=4, kv_heads=2, bins=2, config=AttentionConfig(64, 64))


def native_refusal(inputs: AttentionInputs, config: AttentionConfig) -> str:
    """What the native library says of a call; the model declares no shape that could hide it."""
    model = node_model(random_inputs(CASE, 0), config)
    for entry in (*model.graph.input, *model.graph.output):
        entry.type.tensor_type.ClearField("shape")
    with pytest.raises((Fail, InvalidArgument)) as caught:
        native_session(model).run(None, feed_of(inputs))
    return str(caught.value)


def assert_same(inputs: AttentionInputs, config: AttentionConfig, subject: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        validate(inputs, config)
    assert caught.value.subject == subject
    assert native_refusal(inputs, config).rstrip().endswith(str(caught.value))


@pytest.mark.parametrize(
    "name",
    ["key", "value", "token_order", "head_order", "block_mask", "tile_order", "channel_affine",
     "mask_bin", "key_length"],
)  # fmt: skip
def test_ranks_and_shapes(name, fresh_seed):
    inputs = random_inputs(CASE, fresh_seed)
    tensor = getattr(inputs, name)
    for bad in (tensor[None], torch.cat([tensor, tensor], dim=-1)):
        assert_same(inputs._replace(**{name: bad}), CASE.config, name)


@pytest.mark.parametrize(
    ("changes", "subject"),
    [
        ({"query": (2, 200, 4)}, "query"),
        ({"query": (2, 0, 4, 64)}, "tokens"),
        ({"query": (1, 200, 4, 64)}, "key"),
        ({"query": (2, 200, 4, 128)}, "key"),
        ({"query": (2, 200, 4, 64), "token_order": (0, 200)}, "orders"),
        ({"block_mask": (0, 4, 4, 1), "tile_order": (0, 16)}, "bins"),
        (
            {"key": (2, 200, 3, 64), "value": (2, 200, 3, 64), "channel_affine": (4, 3, 64)},
            "kv_heads",
        ),
        (
            {"key": (2, 200, 0, 64), "value": (2, 200, 0, 64), "channel_affine": (4, 0, 64)},
            "kv_heads",
        ),
    ],
)
def test_sizes(changes, subject, fresh_seed):
    inputs = random_inputs(CASE, fresh_seed)
    bad = {
        name: torch.zeros(shape, dtype=getattr(inputs, name).dtype)
        for name, shape in changes.items()
    }
    assert_same(inputs._replace(**bad), CASE.config, subject)


@pytest.mark.parametrize(
    ("name", "value"),
    [("block_q", 32), ("block_k", 0), ("qk_bits", 5), ("pv_bits", 32)],
)
def test_attributes(name, value, fresh_seed):
    config = replace(CASE.config, **{name: value})
    assert_same(random_inputs(CASE, fresh_seed), config, name)
