"""The function bodies of version 2 of the op against the reference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from paro_trt.onnx_export import Body
from paro_trt.onnx_export.bodies import Features, attention_function
from paro_trt.op.mask import pack_block_mask
from paro_trt.op.spec import VERSION_2_INPUTS, AttentionConfig, AttentionInputs
from tests.support.cases import SMOOTHED_CASES, VERSION_2_CASES, OpCase, at_bits, random_inputs
from tests.support.stress import STRESS_CASE, STRESSES, problems

from .single_node import (
    assert_matches_reference,
    feed_of,
    run_with_onnxruntime,
    session_of,
    single_node_model,
)

BODIES = pytest.mark.parametrize("body", [Body.SPARSE, Body.DENSE])
RUNNABLE = tuple(case for case in VERSION_2_CASES if case.dtype != torch.bfloat16)
BY_NAME = {case.name: case for case in VERSION_2_CASES}
ALL = BY_NAME["all"]
SMOOTHED = tuple(case for case in SMOOTHED_CASES if case.dtype != torch.bfloat16)
SMOOTHED_ALL = next(case for case in SMOOTHED_CASES if case.name == "smoothed-all")


def assert_equals_reference(
    body: Body, inputs: AttentionInputs, config: AttentionConfig, opset: int = 18
) -> None:
    actual = run_with_onnxruntime(body, inputs, config, opset)
    assert_matches_reference(actual, inputs, config)


@BODIES
@pytest.mark.parametrize("case", RUNNABLE, ids=lambda case: case.name)
def test_every_case(body: Body, case: OpCase, fresh_seed: int) -> None:
    case = at_bits(case, 8, 8)
    assert_equals_reference(body, random_inputs(case, fresh_seed), case.config)


@BODIES
@pytest.mark.parametrize("name", ["fine-wide-ragged", "all", "all-half-precision"])
@pytest.mark.parametrize("bits", [(16, 16), (4, 16), (8, 4)], ids=str)
def test_other_bit_widths(body: Body, name: str, bits: tuple[int, int], fresh_seed: int) -> None:
    case = at_bits(BY_NAME[name], *bits)
    assert_equals_reference(body, random_inputs(case, fresh_seed), case.config)


@pytest.mark.parametrize("opset", [20, 23, 25])
@BODIES
def test_opsets(body: Body, opset: int, fresh_seed: int) -> None:
    case = SMOOTHED_ALL
    inputs = random_inputs(case, fresh_seed)
    model = single_node_model(body, inputs, case.config, opset)
    onnx.checker.check_model(model, full_check=True)
    assert_equals_reference(body, inputs, case.config, opset)


@pytest.mark.parametrize(
    "case", [at_bits(ALL, 16, 16), at_bits(ALL, 8, 4), SMOOTHED_ALL], ids=["16", "8-4", "smoothed"]
)
def test_dense_body_in_the_onnx_reference_evaluator(case: OpCase, fresh_seed: int) -> None:
    inputs = random_inputs(case, fresh_seed)
    evaluator = ReferenceEvaluator(single_node_model(Body.DENSE, inputs, case.config))
    feed = feed_of(inputs, config=case.config)
    actual = torch.from_numpy(np.asarray(evaluator.run(None, feed)[0]))
    assert_matches_reference(actual, inputs, case.config)


@pytest.mark.parametrize("body", [Body.SPARSE, pytest.param(Body.DENSE, marks=pytest.mark.long)])
@pytest.mark.parametrize("case", SMOOTHED, ids=lambda case: case.name)
def test_smoothed_case(body: Body, case: OpCase, fresh_seed: int) -> None:
    """pv_bits 16 compares what 4-bit codes make of logits without the noise of codes of P."""
    case = at_bits(case, 4, 16)
    assert_equals_reference(body, random_inputs(case, fresh_seed), case.config)


@BODIES
def test_smoothed_with_values_of_4_bits(body: Body, fresh_seed: int) -> None:
    case = at_bits(SMOOTHED_ALL, 4, 4)
    assert_equals_reference(body, random_inputs(case, fresh_seed), case.config)


@BODIES
@pytest.mark.parametrize("head_dim", [2, 32, 256])
def test_rotation_of_any_power_of_two(body: Body, head_dim: int, fresh_seed: int) -> None:
    config = replace(SMOOTHED_ALL.config, routing=False)
    case = OpCase("channels", 130, head_dim=head_dim, config=config)
    assert_equals_reference(body, random_inputs(case, fresh_seed), case.config)


@BODIES
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_no_nan_of_finite_inputs(body: Body, dtype: torch.dtype, fresh_seed: int) -> None:
    config = replace(SMOOTHED_ALL.config, routing=False)
    case = replace(STRESS_CASE, config=config, dtype=dtype)
    session = session_of(single_node_model(body, random_inputs(case, 0), config))
    wrong = {}
    for stress in STRESSES:
        inputs = stress.inputs(case, fresh_seed)
        output = session.run(None, feed_of(inputs, session, config))[0]
        wrong[stress.name] = problems(torch.from_numpy(output), inputs)
    assert not {name: found for name, found in wrong.items() if found}


def test_a_mean_that_is_not_finite_stays_in_its_query_block(fresh_seed: int) -> None:
    case = OpCase("nan", 200, config=replace(SMOOTHED_ALL.config, routing=False,
                                             mean_correction=False))  # fmt: skip
    inputs = random_inputs(case, fresh_seed)
    inputs.query[0, 150, 1, 3] = float("nan")
    assert_equals_reference(Body.SPARSE, inputs, case.config)


def test_dense_body_has_no_control_flow() -> None:
    function = attention_function(Body.DENSE, 18, Features(*(True for _ in Features._fields)))
    kinds = {node.op_type for node in function.node}
    assert not kinds & {"If", "Loop", "Scan", "NonZero", "Compress"}


@BODIES
def test_one_file_serves_every_batch_size(body: Body, fresh_seed: int) -> None:
    case = at_bits(ALL, 8, 8)
    inputs = random_inputs(case, fresh_seed)
    session = session_of(single_node_model(body, inputs, case.config))
    by_sample = ("query", "key", "value", "mask_bin", "key_length")
    for batch in (0, 1):
        part = inputs._replace(**{name: getattr(inputs, name)[:batch] for name in by_sample})
        actual = torch.from_numpy(session.run(None, feed_of(part, session, case.config))[0])
        assert actual.shape == part.query.shape
        if batch:
            assert_matches_reference(actual, part, case.config)


@BODIES
@pytest.mark.parametrize("name", Features._fields)
def test_an_attribute_of_0_turns_its_input_off(body: Body, name: str, fresh_seed: int) -> None:
    """Layers of one file share a function that computes what any of them uses."""
    case = SMOOTHED_ALL
    inputs = random_inputs(case, fresh_seed)
    model = single_node_model(body, inputs, case.config)
    (node,) = model.graph.node
    next(entry for entry in node.attribute if entry.name == name).i = 0
    session = session_of(model)
    actual = torch.from_numpy(session.run(None, feed_of(inputs, session, case.config))[0])
    given = dict(zip(Features._fields, (entry.name for entry in VERSION_2_INPUTS), strict=True))
    without = inputs._replace(**{given[name]: None})
    assert_matches_reference(actual, without, replace(case.config, **{name: False}))


@BODIES
def test_equal_scores_take_the_lower_index(body: Body, fresh_seed: int) -> None:
    """All blocks have the same means of runs, exactly, and so the same estimated errors."""
    config = AttentionConfig(block_q=64, block_k=64, routing=True)
    inputs = random_inputs(OpCase("ties", 320, config=config), fresh_seed)
    order = inputs.token_order[inputs.head_order[0]].long()
    for tensor in (inputs.query, inputs.key, inputs.value):
        tensor.round_()  # small integers: products and means are exact in any order of sums
    for tensor in (inputs.key, inputs.value):
        tensor[:, order] = tensor[:, order[:64]].repeat(1, 5, 1, 1)
    # What the estimate does not see: in blocks 2 and 4 values are at other tokens of their run.
    others = order[[*range(128, 192), *range(256, 320)]]
    halves = inputs.value[:, others].view(1, 8, 2, 8, 2, 64)
    inputs.value[:, others] = halves.flip(2).reshape(1, 128, 2, 64)
    inputs = inputs._replace(
        head_order=torch.zeros_like(inputs.head_order) + inputs.head_order[0],
        block_mask=_only_block(inputs, 3),
        dynamic_blocks=torch.full((1, 2), 2, dtype=torch.int32),
    )
    assert_equals_reference(body, inputs, config)


@BODIES
def test_scores_that_are_not_numbers_come_first(body: Body, fresh_seed: int) -> None:
    """A NaN in a key makes every score NaN: they come before the blocks of the mask."""
    config = AttentionConfig(block_q=64, block_k=64, routing=True)
    inputs = random_inputs(OpCase("nan", 256, config=config), fresh_seed)
    last = inputs.token_order[inputs.head_order].long()[:, -1]
    for head in range(2):
        inputs.key[0, last[head], head, 5] = float("nan")
    inputs = inputs._replace(
        block_mask=_only_block(inputs, 0),
        dynamic_blocks=torch.full((1, 2), 1, dtype=torch.int32),
    )
    if body is Body.DENSE:
        # Its products reach every row: what is compared is that none of them is a number.
        actual = run_with_onnxruntime(body, inputs, config)
        assert actual.shape == inputs.query.shape
        return
    assert_equals_reference(body, inputs, config)


def _only_block(inputs: AttentionInputs, block: int) -> torch.Tensor:
    shape = inputs.block_mask.shape
    mask = np.zeros((*shape[:3], 32), dtype=bool)
    mask[..., block] = True
    return torch.from_numpy(pack_block_mask(mask))
