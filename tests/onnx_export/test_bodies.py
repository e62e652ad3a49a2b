"""The function bodies against the reference, on every kind of input."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from paro_trt.onnx_export import Body
from paro_trt.onnx_export.bodies import attention_function
from paro_trt.op.mask import pack_block_mask
from paro_trt.op.spec import AttentionConfig, AttentionInputs
from tests.support.cases import BIT_PAIRS, CASES, OpCase, random_inputs

from .single_node import (
    EVERYTHING,
    assert_matches_reference,
    feed_of,
    run_with_onnxruntime,
    session_of,
    single_node_model,
)

BODIES = (Body.SPARSE, Body.DENSE)
RUNNABLE = tuple(case for case in CASES if case.dtype != torch.bfloat16)


def assert_equals_reference(
    body: Body, inputs: AttentionInputs, config: AttentionConfig, opset: int = 18
) -> None:
    actual = run_with_onnxruntime(body, inputs, config, opset)
    assert_matches_reference(actual, inputs, config)


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("pool_dropped", [False, True])
@pytest.mark.parametrize("bits", BIT_PAIRS, ids=str)
def test_every_bit_width(
    body: Body, pool_dropped: bool, bits: tuple[int, int], fresh_seed: int
) -> None:
    case = EVERYTHING.with_bits(*bits, pool_dropped)
    assert_equals_reference(body, random_inputs(case, fresh_seed), case.config)


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("case", RUNNABLE, ids=lambda case: case.name)
@pytest.mark.parametrize("bits", [(16, 16, False), (8, 8, False), (8, 4, True)], ids=str)
def test_every_case(body: Body, case: OpCase, bits: tuple[int, int, bool], fresh_seed: int) -> None:
    case = case.with_bits(*bits)
    assert_equals_reference(body, random_inputs(case, fresh_seed), case.config)


@pytest.mark.parametrize("opset", [18, 20, 23, 25])
@pytest.mark.parametrize("body", BODIES)
def test_opsets(body: Body, opset: int, fresh_seed: int) -> None:
    case = EVERYTHING.with_bits(8, 8, True)
    inputs = random_inputs(case, fresh_seed)
    model = single_node_model(body, inputs, case.config, opset)
    onnx.checker.check_model(model, full_check=True)
    assert_equals_reference(body, inputs, case.config, opset)


@pytest.mark.parametrize("bits", BIT_PAIRS, ids=str)
def test_dense_body_in_the_onnx_reference_evaluator(bits: tuple[int, int], fresh_seed: int) -> None:
    case = EVERYTHING.with_bits(*bits, pool_dropped=bits[0] == 8)
    inputs = random_inputs(case, fresh_seed)
    evaluator = ReferenceEvaluator(single_node_model(Body.DENSE, inputs, case.config))
    actual = torch.from_numpy(np.asarray(evaluator.run(None, feed_of(inputs))[0]))
    assert_matches_reference(actual, inputs, case.config)


def test_dense_body_has_no_control_flow() -> None:
    kinds = {node.op_type for node in attention_function(Body.DENSE, 18).node}
    assert not kinds & {"If", "Loop", "Scan", "NonZero", "Compress"}


@pytest.mark.parametrize("bits", [(16, 16), (8, 8), (8, 4)], ids=str)
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("tensor", ["query", "key", "value"])
def test_sparse_body_contains_non_finite_elements(
    tensor: str, poison: float, bits: tuple[int, int], fresh_seed: int
) -> None:
    case = replace(EVERYTHING, key_length=None, empty_rows=False, density=0.9)
    case = case.with_bits(*bits, pool_dropped=False)
    inputs = random_inputs(case, fresh_seed)
    getattr(inputs, tensor)[1, 17, 0, 3] = poison
    assert_equals_reference(Body.SPARSE, inputs, case.config)


@pytest.mark.parametrize("body", BODIES)
def test_padding_does_not_enter(body: Body, fresh_seed: int) -> None:
    """Tokens past key_length may hold any value, even NaN."""
    case = replace(EVERYTHING, batch=1, key_length=(130,)).with_bits(8, 8, pool_dropped=True)
    inputs = random_inputs(case, fresh_seed)
    for kv_head, row in enumerate(inputs.head_order[::2].tolist()):
        padding = inputs.token_order[row, 130:].long()
        inputs.key[0, padding, kv_head] = float("nan")
        inputs.value[0, padding, kv_head] = float("inf")
    assert_equals_reference(body, inputs, case.config)


@pytest.mark.parametrize("body", BODIES)
def test_tiny_and_zero_groups_quantize_to_zero(body: Body, fresh_seed: int) -> None:
    case = EVERYTHING.with_bits(8, 8, pool_dropped=False)
    inputs = random_inputs(case, fresh_seed)
    inputs.query[:, 5] = 0.0
    # 127 / 2^-127 would overflow.
    inputs.query[:, 6] *= 2.0**-127
    assert_equals_reference(body, inputs, case.config)


@pytest.mark.parametrize("body", BODIES)
def test_given_scale(body: Body, fresh_seed: int) -> None:
    config = replace(EVERYTHING.config, scale=0.37)
    assert_equals_reference(body, random_inputs(EVERYTHING, fresh_seed), config)


@pytest.mark.parametrize("body", BODIES)
def test_mask_bin_is_clamped(body: Body, fresh_seed: int) -> None:
    inputs = random_inputs(EVERYTHING, fresh_seed)
    inputs = inputs._replace(mask_bin=torch.tensor([-5, 0, 2, 99], dtype=torch.int32))
    assert_equals_reference(body, inputs, EVERYTHING.config)


@pytest.mark.parametrize("body", BODIES)
def test_nothing_attended_anywhere(body: Body, fresh_seed: int) -> None:
    inputs = random_inputs(EVERYTHING, fresh_seed)
    inputs = inputs._replace(block_mask=torch.zeros_like(inputs.block_mask))
    actual = run_with_onnxruntime(body, inputs, EVERYTHING.config)
    assert torch.equal(actual, torch.zeros_like(actual))


@pytest.mark.parametrize("body", BODIES)
def test_more_key_blocks_than_a_mask_word(body: Body, fresh_seed: int) -> None:
    config = AttentionConfig(block_q=128, block_k=64, qk_bits=8, pv_bits=16, pool_dropped=True)
    case = OpCase("long", 64 * 66 + 3, heads=1, kv_heads=1, density=0.1, config=config)
    assert_equals_reference(body, random_inputs(case, fresh_seed), config)


@pytest.mark.parametrize("body", BODIES)
def test_one_file_serves_every_batch_size(body: Body, fresh_seed: int) -> None:
    case = EVERYTHING.with_bits(8, 8, pool_dropped=True)
    inputs = random_inputs(case, fresh_seed)
    session = session_of(single_node_model(body, inputs, case.config))
    by_sample = ("query", "key", "value", "mask_bin", "key_length")
    for batch in (0, 1, 3):
        part = inputs._replace(**{name: getattr(inputs, name)[:batch] for name in by_sample})
        actual = torch.from_numpy(session.run(None, feed_of(part, session))[0])
        assert actual.shape == part.query.shape
        if batch:
            assert_matches_reference(actual, part, case.config)


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2)])
def test_full_density_is_onnx_attention(
    body: Body, heads: int, kv_heads: int, fresh_seed: int
) -> None:
    """At density 1 and 16 bits the op is ONNX's own Attention, whatever the orders."""
    case = OpCase(
        "full", 150, batch=2, heads=heads, kv_heads=kv_heads, head_dim=16, density=1.0
    )  # fmt: skip
    inputs = random_inputs(case, fresh_seed)
    node = onnx.helper.make_node("Attention", ["q", "k", "v"], ["o"])
    names = dict(zip("qkv", (x.transpose(1, 2).numpy() for x in inputs[:3]), strict=True))
    expected = ReferenceEvaluator(_bare_model(node, names)).run(None, names)[0]
    actual = run_with_onnxruntime(body, inputs, case.config)
    torch.testing.assert_close(
        actual, torch.from_numpy(expected).transpose(1, 2), atol=2e-5, rtol=2e-5
    )


def _bare_model(node: onnx.NodeProto, feeds: dict[str, np.ndarray]) -> onnx.ModelProto:
    inputs = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, x.shape)
        for name, x in feeds.items()
    ]
    output = onnx.helper.make_tensor_value_info("o", onnx.TensorProto.FLOAT, None)
    graph = onnx.helper.make_graph([node], "attention", inputs, [output])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 23)])


def test_sparse_body_reads_listed_key_blocks_only(fresh_seed: int) -> None:
    """A NaN in a dropped block must not reach any row."""
    case = OpCase("isolated", 256, config=AttentionConfig(block_q=64, block_k=64))
    inputs = random_inputs(case, fresh_seed)
    mask = np.ones((1, 2, 4, 4), dtype=bool)
    mask[..., 2] = False
    inputs = inputs._replace(block_mask=torch.from_numpy(pack_block_mask(mask)))
    hidden = inputs.token_order[inputs.head_order[0], 128:192].long()
    inputs.key[:, hidden, 0] = float("nan")
    inputs.value[:, hidden, 0] = float("nan")
    actual = run_with_onnxruntime(Body.SPARSE, inputs, case.config)
    assert bool(actual.isfinite().all())
