"""The reference against an independent oracle, dense attention, and its own promises."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from paro_trt.op.reference import paro_attention_reference
from paro_trt.op.spec import AttentionConfig, AttentionInputs
from paro_trt.op.validate import validate
from tests.support.cases import (
    BIT_PAIRS,
    CASES,
    SMOOTHED_CASES,
    VERSION_2_CASES,
    OpCase,
    at_bits,
    random_inputs,
)
from tests.support.numerics import compare

from .oracle import oracle

SMALL = AttentionConfig(block_q=64, block_k=64)
BY_NAME = {case.name: case for case in CASES}


def relative(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual.double() - expected.double()).norm() / expected.double().norm())


def dense_attention(inputs: AttentionInputs) -> torch.Tensor:
    group = inputs.query.shape[2] // inputs.key.shape[2]
    q, k, v = (x.double().transpose(1, 2) for x in inputs[:3])
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


@pytest.mark.parametrize("pool", [False, True], ids=["dropped", "pooled"])
@pytest.mark.parametrize("bits", BIT_PAIRS, ids=lambda b: f"qk{b[0]}-pv{b[1]}")
def test_exact_equals_independent_oracle(bits, pool, fresh_seed):
    case = OpCase(
        "oracle", 170, batch=2, heads=4, kv_heads=2, bins=2, key_length=(170, 97), config=SMALL
    ).with_bits(*bits, pool)
    inputs = random_inputs(case, fresh_seed)
    actual = paro_attention_reference(inputs, case.config, exact=True).numpy()
    np.testing.assert_allclose(actual, oracle(inputs, case.config), rtol=0, atol=2e-6)


@pytest.mark.parametrize("case", VERSION_2_CASES, ids=lambda case: case.name)
@pytest.mark.parametrize(
    "bits",
    [(16, 16), pytest.param((8, 8), marks=pytest.mark.long), (4, 4)],
    ids=["qk16-pv16", "qk8-pv8", "qk4-pv4"],
)
def test_version_2_equals_independent_oracle(case, bits, fresh_seed):
    # Means are rounded to the type of the inputs at 16 bits, which the oracle leaves out.
    case = replace(at_bits(case, *bits), dtype=torch.float32)
    inputs = random_inputs(case, fresh_seed)
    validate(inputs, case.config)
    actual = paro_attention_reference(inputs, case.config, exact=True).numpy()
    error = np.abs(actual - oracle(inputs, case.config))
    if case.config.pv_bits == 16:
        assert error.max() <= 5e-6
        return
    # The oracle's means are float64: a P next to the edge of a code may take the other code,
    # which is rare and moves a row by a code's width.
    assert np.mean(error > 5e-6) <= 2e-3
    assert error.max() <= 2 * float(inputs.value.abs().max()) / 15


@pytest.mark.parametrize("case", SMOOTHED_CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("pv_bits", [16, pytest.param(8, marks=pytest.mark.long), 4])
def test_smoothed_products_equal_independent_oracle(case, pv_bits, fresh_seed):
    case = at_bits(case, 4, pv_bits)
    inputs = random_inputs(case, fresh_seed)
    validate(inputs, case.config)
    actual = paro_attention_reference(inputs, case.config, exact=True).numpy()
    error = np.abs(actual - oracle(inputs, case.config))
    largest = float(inputs.value.float().abs().max())
    assert np.mean(error > 1e-6 * largest) <= 2e-3  # a P next to the edge of a code
    assert error.max() <= 2 * largest / 15


@pytest.mark.parametrize("case", SMOOTHED_CASES, ids=lambda case: case.name)
def test_smoothed_products_are_within_their_own_tolerance(case, fresh_seed):
    inputs = random_inputs(case, fresh_seed)
    output = paro_attention_reference(inputs, case.config)
    assert output.dtype == case.dtype
    assert compare(output, inputs, case.config).ok


@pytest.mark.parametrize("case", VERSION_2_CASES, ids=lambda case: case.name)
def test_version_2_is_within_its_own_tolerance(case, fresh_seed):
    case = at_bits(case, 8, 4)
    inputs = random_inputs(case, fresh_seed)
    output = paro_attention_reference(inputs, case.config)
    assert output.dtype == case.dtype
    assert compare(output, inputs, case.config).ok


@pytest.mark.parametrize("name", ["wide-key-blocks", "empty-rows", "ragged", "all-padding"])
def test_corner_cases_equal_independent_oracle(name, fresh_seed):
    case = BY_NAME[name].with_bits(8, 8, False)
    inputs = random_inputs(case, fresh_seed)
    actual = paro_attention_reference(inputs, case.config, exact=True).numpy()
    np.testing.assert_allclose(actual, oracle(inputs, case.config), rtol=0, atol=2e-6)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
@pytest.mark.parametrize("bits", [(16, 16), (8, 8), (4, 4)], ids=lambda b: f"qk{b[0]}-pv{b[1]}")
@pytest.mark.parametrize("pool", [False, True], ids=["dropped", "pooled"])
def test_every_case_is_valid_and_finite(case, bits, pool, fresh_seed):
    case = case.with_bits(*bits, pool)
    inputs = random_inputs(case, fresh_seed)
    validate(inputs, case.config)
    output = paro_attention_reference(inputs, case.config)
    assert output.shape == inputs.query.shape
    assert output.dtype == case.dtype
    assert output.isfinite().all()
    assert compare(output, inputs, case.config).ok


@pytest.mark.parametrize("name", ["full-density", "grouped-queries", "one-token"])
def test_full_density_at_16_bits_is_dense_attention(name, fresh_seed):
    inputs = random_inputs(replace(BY_NAME[name], density=1.0), fresh_seed)
    actual = paro_attention_reference(inputs, BY_NAME[name].config, exact=True)
    torch.testing.assert_close(actual, dense_attention(inputs), rtol=0, atol=1e-12)


def test_quantization_error_falls_with_the_bits(fresh_seed):
    inputs = random_inputs(BY_NAME["full-density"], fresh_seed)
    errors = []
    for bits in (4, 8, 16):
        config = BY_NAME["full-density"].with_bits(bits, bits, False).config
        output = paro_attention_reference(inputs, config)
        errors.append(relative(output, dense_attention(inputs)))
    # A code's step is 127 / 7 = 18 times finer at 8 bits; FP32 rounding is all that 16 bits leave.
    assert errors[0] > 4 * errors[1] > 4e-3
    assert errors[2] < 1e-5


def test_order_of_tokens_does_not_change_dense_attention(fresh_seed):
    inputs = random_inputs(BY_NAME["full-density"], fresh_seed)
    shuffled = inputs._replace(token_order=inputs.token_order.flip(1))
    config = BY_NAME["full-density"].config
    torch.testing.assert_close(
        paro_attention_reference(inputs, config, exact=True),
        paro_attention_reference(shuffled, config, exact=True),
        rtol=0,
        atol=1e-12,
    )


def test_pooling_is_exact_when_blocks_are_constant(fresh_seed):
    case = replace(BY_NAME["ragged"], tokens=320, density=0.2).with_bits(16, 16, True)
    inputs = random_inputs(case, fresh_seed)
    identity = torch.arange(320, dtype=torch.int32).expand_as(inputs.token_order).contiguous()
    key = inputs.key[:, ::64].repeat_interleave(64, dim=1)
    value = inputs.value[:, ::64].repeat_interleave(64, dim=1)
    inputs = inputs._replace(key=key, value=value, token_order=identity)
    actual = paro_attention_reference(inputs, case.config, exact=True)
    assert relative(actual, dense_attention(inputs)) < 1e-6
    dropped = paro_attention_reference(inputs, replace(case.config, pool_dropped=False), exact=True)
    assert relative(dropped, dense_attention(inputs)) > 1e-2


def test_rows_with_nothing_to_attend_and_padding_are_zero(fresh_seed):
    case = BY_NAME["empty-rows"].with_bits(8, 8, False)
    inputs = random_inputs(case, fresh_seed)
    output = paro_attention_reference(inputs, case.config)
    empty = inputs.token_order[inputs.head_order[0].item(), :64].long()
    assert (output[0, empty, 0] == 0).all()
    assert (output[0, :, 0] != 0).any()

    case = BY_NAME["padded"]
    inputs = random_inputs(case, fresh_seed)
    output = paro_attention_reference(inputs, case.config)
    for sample, length in enumerate(case.key_length):
        beyond = inputs.token_order[inputs.head_order[1].item(), length:].long()
        assert (output[sample, beyond, 1] == 0).all()


@pytest.mark.parametrize("pool", [False, True], ids=["dropped", "pooled"])
def test_tokens_past_key_length_do_not_matter(pool, fresh_seed):
    case = BY_NAME["padded"].with_bits(8, 4, pool)
    inputs = random_inputs(case, fresh_seed)
    expected = paro_attention_reference(inputs, case.config)
    key, value = inputs.key.clone(), inputs.value.clone()
    for sample, length in enumerate(case.key_length):
        for kv_head in range(case.kv_heads):
            beyond = inputs.token_order[inputs.head_order[kv_head].item(), length:].long()
            key[sample, beyond, kv_head] = float("nan")
            value[sample, beyond, kv_head] = float("inf")
    actual = paro_attention_reference(inputs._replace(key=key, value=value), case.config)
    assert torch.equal(actual, expected)


def test_mask_bin_is_clamped(fresh_seed):
    case = BY_NAME["bins-per-sample"]
    inputs = random_inputs(case, fresh_seed)
    outside = inputs._replace(mask_bin=torch.tensor([-5, 1, 99], dtype=torch.int32))
    inside = inputs._replace(mask_bin=torch.tensor([0, 1, 2], dtype=torch.int32))
    assert torch.equal(
        paro_attention_reference(outside, case.config),
        paro_attention_reference(inside, case.config),
    )


@pytest.mark.parametrize("bits", [(16, 16), (8, 8), (8, 4)], ids=lambda b: f"qk{b[0]}-pv{b[1]}")
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_query_poisons_its_row_only(bits, bad, fresh_seed):
    case = BY_NAME["ragged"].with_bits(*bits, True)
    inputs = random_inputs(case, fresh_seed)
    query = inputs.query.clone()
    query[0, 17, 1, 3] = bad
    output = paro_attention_reference(inputs._replace(query=query), case.config)
    clean = paro_attention_reference(inputs, case.config)
    assert output[0, 17, 1].isnan().all()
    output[0, 17, 1] = clean[0, 17, 1]
    assert torch.equal(output, clean)


@pytest.mark.parametrize("bits", [(16, 16), (8, 8), (4, 4)], ids=lambda b: f"qk{b[0]}-pv{b[1]}")
def test_non_finite_key_poisons_the_query_blocks_that_attend_it(bits, fresh_seed):
    case = BY_NAME["ragged"].with_bits(*bits, False)
    inputs = random_inputs(case, fresh_seed)
    order = inputs.token_order[inputs.head_order[0].item()].long()
    key = inputs.key.clone()
    key[0, order[70], 0, 5] = float("nan")
    output = paro_attention_reference(inputs._replace(key=key), case.config)
    attends_block_1 = (inputs.block_mask[0, 0, :, 0] >> 1) & 1
    rows = attends_block_1.bool().repeat_interleave(64)[: case.tokens]
    assert torch.equal(output[0, order, 0].isnan().all(dim=1), rows)
    assert not output[0, :, 1].isnan().any()


def test_huge_logits_stay_finite(fresh_seed):
    case = BY_NAME["ragged"].with_bits(8, 8, True)
    inputs = random_inputs(case, fresh_seed)
    output = paro_attention_reference(inputs._replace(query=inputs.query * 1e4), case.config)
    assert output.isfinite().all()


def test_zero_and_tiny_inputs(fresh_seed):
    case = BY_NAME["ragged"].with_bits(8, 8, False)
    inputs = random_inputs(case, fresh_seed)
    identity = torch.tensor([0.0, 1.0, 0.0, 1.0])[:, None, None].expand_as(inputs.channel_affine)
    inputs = inputs._replace(channel_affine=identity.contiguous())
    for factor in (0.0, 1e-38):
        tiny = inputs._replace(key=inputs.key * factor, value=inputs.value * factor)
        assert (paro_attention_reference(tiny, case.config) == 0).all()
