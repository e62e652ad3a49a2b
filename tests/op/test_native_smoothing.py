"""Smoothed 4-bit query x key in the native CPU backend, on every instruction set here."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from paro_trt.op import native
from paro_trt.op.reference import paro_attention_reference
from paro_trt.op.spec import AttentionConfig, AttentionInputs
from tests.plugins.cpu_instruction_sets import assert_each_isa_is_right, forward_on_each_isa
from tests.support.cases import SMOOTHED_CASES, OpCase, at_bits, random_inputs
from tests.support.stress import STRESS_CASE, STRESSES, problems

SMOOTHED = AttentionConfig(64, 64, qk_bits=4, pv_bits=8, pool_dropped=True, smoothing=True)
ALL = replace(SMOOTHED, fine_summaries=True, mean_correction=True, routing=True)
CASE = OpCase("smoothed", 331, heads=4, kv_heads=2, density=0.3, config=SMOOTHED)
STRESS_CASE_SMOOTHED = replace(STRESS_CASE, config=SMOOTHED)
VALUE_BITS = (8, 16, 4)


@pytest.fixture(scope="module")
def library() -> native.NativeLibrary:
    return native.load_library(native.library_path("cpu"))


def first_of(index: int) -> list[object]:
    """One width of values of a case in every run, the others in long ones."""
    return [
        pytest.param(bits, marks=() if i == index % 3 else pytest.mark.long)
        for i, bits in enumerate(VALUE_BITS)
    ]


@pytest.mark.parametrize(
    ("case", "pv_bits"),
    [
        pytest.param(case, *bits.values, marks=bits.marks, id=f"{case.name}-pv{bits.values[0]}")
        for index, case in enumerate(SMOOTHED_CASES)
        for bits in first_of(index)
    ],
)
def test_every_case_equals_the_reference(case, pv_bits, library, fresh_seed):
    case = at_bits(case, 4, pv_bits)
    assert_each_isa_is_right(library, random_inputs(case, fresh_seed), case.config)


def test_more_blocks_than_a_step_has(library, fresh_seed):
    """Full steps of 16 blocks and one with a block less than a product takes, of mean queries."""
    config = replace(SMOOTHED, block_q=128, mean_correction=True)
    case = replace(CASE, tokens=64 * 34 + 20, heads=2, kv_heads=1, density=1.0, config=config)
    assert_each_isa_is_right(library, random_inputs(case, fresh_seed), config)


@pytest.mark.parametrize("stress", STRESSES, ids=lambda stress: stress.name)
@pytest.mark.parametrize(
    "dtype",
    [
        torch.float32,
        pytest.param(torch.float16, marks=pytest.mark.long),
        pytest.param(torch.bfloat16, marks=pytest.mark.long),
    ],
)
def test_stress_makes_no_nan(dtype, stress, library, fresh_seed):
    for config in (SMOOTHED, ALL):
        inputs = stress.inputs(replace(STRESS_CASE, dtype=dtype, config=config), fresh_seed)
        for isa, output in forward_on_each_isa(library, inputs, config):
            assert not problems(output, inputs), isa
    # Of logits in the thousands and blocks of equal errors, two right results may differ.
    if not stress.name.startswith(("large", "all-outlier", "range")):
        assert_each_isa_is_right(library, stress.inputs(STRESS_CASE_SMOOTHED, fresh_seed), SMOOTHED)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_rows_at_the_end_of_the_range(dtype, library, fresh_seed):
    """Equalized, their mean is past the type's largest number; keys are small for it."""
    inputs = random_inputs(replace(CASE, tokens=200, dtype=dtype), fresh_seed)
    largest = torch.finfo(dtype).max
    affine = inputs.channel_affine.clone()
    affine[:2] = torch.tensor([0.0, 2.0 if dtype == torch.float16 else 1.0])[:, None, None]
    inputs = inputs._replace(
        query=torch.full_like(inputs.query, largest),
        key=inputs.key * (1e-4 if dtype == torch.float16 else 1e-38),
        channel_affine=affine,
        rotation=torch.zeros_like(inputs.rotation),
    )
    assert paro_attention_reference(inputs, SMOOTHED).isfinite().all()
    assert_each_isa_is_right(library, inputs, SMOOTHED)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["query", "key", "value"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_non_finite_values_stay_where_the_reference_has_them(
    dtype, where, bad, library, fresh_seed
):
    case = OpCase("poison", 200, dtype=dtype, config=ALL)
    inputs = random_inputs(case, fresh_seed)
    tensor = getattr(inputs, where).clone()
    tensor[0, 77, 1, 9] = bad
    inputs = inputs._replace(**{where: tensor})
    reference = paro_attention_reference(inputs, ALL)
    for isa, output in forward_on_each_isa(library, inputs, ALL):
        assert torch.equal(output.isfinite(), reference.isfinite()), isa


def assert_equal_on_each_isa(
    library: native.NativeLibrary, inputs: AttentionInputs, other: AttentionInputs
) -> None:
    expected = dict(forward_on_each_isa(library, inputs, SMOOTHED))
    for isa, output in forward_on_each_isa(library, other, SMOOTHED):
        assert torch.equal(output, expected[isa]), isa


def test_a_rotation_has_signs_and_its_first_says_whether_it_is_one(library, fresh_seed):
    inputs = random_inputs(CASE, fresh_seed)
    assert inputs.rotation is not None
    sized = inputs.rotation * 7
    sized[1, 1:] = torch.randint(-9, 9, (63,), dtype=torch.int32)  # of a head without one
    assert_equal_on_each_isa(library, inputs, inputs._replace(rotation=sized))
    positive = inputs.rotation.abs()
    zeros = positive.clone()
    zeros[0, 1:] = 0
    assert_equal_on_each_isa(
        library, inputs._replace(rotation=positive), inputs._replace(rotation=zeros)
    )


def test_dense_rows_are_not_changed_by_their_correction(library, fresh_seed):
    """Both attentions of a correction are the same computation, up to rounding and code edges."""
    config = replace(SMOOTHED, mean_correction=True)
    inputs = random_inputs(replace(CASE, density=1.0, config=config), fresh_seed)
    inputs = inputs._replace(corrected_heads=torch.ones(4, dtype=torch.int32))
    plain = inputs._replace(corrected_heads=None)
    expected = dict(forward_on_each_isa(library, plain, SMOOTHED))
    edge = 2 * float(inputs.value.abs().max()) / 255
    for isa, output in forward_on_each_isa(library, inputs, config):
        torch.testing.assert_close(output, expected[isa], rtol=0, atol=1e-5 + edge, msg=isa)


def test_threads_do_not_change_a_bit(library, fresh_seed):
    inputs = random_inputs(replace(CASE, config=ALL), fresh_seed)
    expected = library.forward(inputs, ALL, 1)
    for threads in (2, 5):
        assert torch.equal(library.forward(inputs, ALL, threads), expected)
