"""Smoothed 4-bit query x key in the CUDA kernels, run by the emulator."""

from __future__ import annotations

import math
import threading
from dataclasses import replace

import pytest
import torch

from paro_trt.errors import BackendUnavailableError
from paro_trt.op import native
from paro_trt.op.reference import paro_attention_reference
from paro_trt.op.spec import AttentionConfig
from tests.support.cases import SMOOTHED_CASES, OpCase, at_bits, random_inputs
from tests.support.numerics import compare
from tests.support.stress import STRESS_CASE, STRESSES, problems

from .kernel_library import emulated_kernels, seen_in_modes

MMA, HOPPER = 80, 90
DTYPES = [torch.float16, torch.bfloat16]
LONG = pytest.mark.long
SMOOTHED = AttentionConfig(64, 64, 4, 8, pool_dropped=True, smoothing=True)
EVERYTHING = replace(SMOOTHED, fine_summaries=True, mean_correction=True, routing=True)
SMALL = OpCase(
    "small", 300, batch=2, heads=4, kv_heads=2, bins=2, density=0.2, key_length=(300, 171),
    dtype=torch.float16, config=SMOOTHED,
)  # fmt: skip


@pytest.fixture(scope="module")
def library() -> native.NativeLibrary:
    return emulated_kernels()


def in_16_bits(case: OpCase, seed: int) -> OpCase:
    return replace(case, dtype=DTYPES[seed % 2]) if case.dtype == torch.float32 else case


@pytest.mark.parametrize("case", SMOOTHED_CASES, ids=lambda c: c.name)
@pytest.mark.parametrize(
    ("pv_bits", "sm"),
    [(8, MMA)] + [pytest.param(*of, marks=LONG) for of in ((4, MMA), (8, HOPPER), (4, HOPPER))],
)
def test_every_case_equals_the_reference(case, pv_bits, sm, library, fresh_seed):
    case = at_bits(in_16_bits(case, fresh_seed), 4, pv_bits)
    inputs = random_inputs(case, fresh_seed)
    result = compare(library.forward(inputs, case.config, sm=sm), inputs, case.config)
    assert result.ok, result


@pytest.mark.parametrize("pv_bits", [8, 4])
@pytest.mark.parametrize("block_k", [64, 128])
@pytest.mark.parametrize("block_q", [64, 128])
@pytest.mark.parametrize("head_dim", [64, pytest.param(128, marks=LONG)])
def test_every_kernel_equals_the_reference(
    head_dim, block_q, block_k, pv_bits, library, fresh_seed
):
    """More than eight listed blocks: the offsets of eight are one product."""
    sm = [MMA, HOPPER][fresh_seed % 2]
    config = AttentionConfig(block_q, block_k, 4, pv_bits, pool_dropped=True, smoothing=True)
    case = OpCase("sizes", block_k * 11 + 9, heads=1, kv_heads=1, density=0.9, head_dim=head_dim,
                  dtype=DTYPES[fresh_seed % 2], config=config)  # fmt: skip
    inputs = random_inputs(case, fresh_seed)
    result = compare(library.forward(inputs, config, sm=sm), inputs, config)
    assert result.ok, result


def test_spans_of_several_words_equal_the_reference(library, fresh_seed):
    """A mask row of 70 blocks: its spans are listed a word at a time."""
    case = OpCase("words", 64 * 69 + 9, heads=1, kv_heads=1, density=0.15, dtype=torch.float16,
                  config=replace(SMOOTHED, block_q=128))  # fmt: skip
    inputs = random_inputs(case, fresh_seed)
    result = compare(library.forward(inputs, case.config, sm=MMA), inputs, case.config)
    assert result.ok, result


@pytest.mark.parametrize("factor", [-12.0, 12.0])
def test_large_logits_equal_the_reference(factor, library, fresh_seed):
    """Below and above those that 2 is raised to as they are (moderate_logit), in some rows."""
    case = OpCase("large", 200, heads=1, kv_heads=1, dtype=torch.float16, config=SMOOTHED)
    inputs = random_inputs(case, fresh_seed)
    key = inputs.key.clone()
    key[:, 64:128] = inputs.key[:, 64:128] * 0.2 + inputs.query[:, 130:131] * abs(factor)
    query = inputs.query.clone()
    query[:, 130:160] *= math.copysign(4.0, factor)
    inputs = inputs._replace(query=query, key=key)
    result = compare(library.forward(inputs, case.config, sm=MMA), inputs, case.config)
    assert result.ok, result


@pytest.mark.parametrize("stress", STRESSES, ids=lambda stress: stress.name)
def test_stress_makes_no_nan(stress, library, fresh_seed):
    dtype, sm = DTYPES[fresh_seed % 2], [MMA, HOPPER][fresh_seed // 2 % 2]
    if stress.name == "range":  # that of bfloat16 has values beyond what 8 bits of P allow
        dtype = torch.float16
    config = [SMOOTHED, EVERYTHING][fresh_seed // 4 % 2]
    inputs = stress.inputs(replace(STRESS_CASE, dtype=dtype, config=config), fresh_seed)
    output = library.forward(inputs, config, sm=sm)
    assert not problems(output, inputs)
    # Of logits in the thousands and blocks of equal errors, two right results may differ.
    if config is SMOOTHED and not stress.name.startswith(("large", "all-outlier", "range")):
        result = compare(output, inputs, config)
        assert result.ok, result


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["query", "key", "value"])
def test_non_finite_values_stay_where_the_reference_has_them(where, bad, library, fresh_seed):
    case = OpCase("poison", 200, dtype=torch.float16, config=EVERYTHING)
    inputs = random_inputs(case, fresh_seed)
    tensor = getattr(inputs, where).clone()
    tensor[0, 77, 1, 9] = bad
    inputs = inputs._replace(**{where: tensor})
    reference = paro_attention_reference(inputs, case.config)
    output = library.forward(inputs, case.config)
    assert torch.equal(output.isfinite(), reference.isfinite())


def test_a_head_without_rotation_ignores_its_signs(library, fresh_seed):
    """0 in the first channel: the other channels of the head say nothing."""
    inputs = random_inputs(SMALL, fresh_seed)
    rotation = torch.ones_like(inputs.rotation)
    rotation[:, 1::2] = -1
    rotation[0, 0] = 0
    other = rotation.clone()
    other[0, 1:] = 7
    first = library.forward(inputs._replace(rotation=rotation), SMALL.config)
    assert torch.equal(first, library.forward(inputs._replace(rotation=other), SMALL.config))
    turned = torch.zeros_like(rotation)
    without = library.forward(inputs._replace(rotation=turned), SMALL.config)
    assert torch.equal(first[:, :, :2], without[:, :, :2])
    assert not torch.equal(first[:, :, 2:], without[:, :, 2:])


@pytest.mark.parametrize("value", [-(2**31), -1, 2**31 - 1])
def test_rotation_may_contain_anything(value, library, fresh_seed):
    """TensorRT times kernels on arbitrary plans."""
    inputs = random_inputs(SMALL, fresh_seed)
    inputs = inputs._replace(rotation=torch.full_like(inputs.rotation, value))
    assert library.forward(inputs, SMALL.config).shape == inputs.query.shape


def test_heads_in_groups_give_the_same_bits(library, fresh_seed):
    case = replace(SMALL, config=EVERYTHING)
    inputs = random_inputs(case, fresh_seed)
    whole = library.workspace_bytes(inputs, case.config)
    output = library.forward(inputs, case.config, max_workspace=whole // 2)
    assert torch.equal(output, library.forward(inputs, case.config))


def test_the_workspace_has_a_gibibyte_of_biases_at_most(library):
    """A float for each query block and key of 32,760 tokens is 33.6 MB a head: groups of 30 heads
    without a limit."""
    case = OpCase("wan", 32760, heads=40, kv_heads=40, head_dim=128, dtype=torch.float16,
                  config=replace(SMOOTHED, block_q=128))  # fmt: skip
    few = replace(case, heads=1, kv_heads=1)
    config = case.config
    rows = 32768
    one = native_bytes(library, few)
    unit_bias = 4 * 256 * rows
    assert one > unit_bias
    groups = (1 << 30) // unit_bias
    assert native_bytes(library, case) < one * (groups + 1)
    assert f"{groups} heads at once" in library.describe(_shapes(case), config)


def native_bytes(library, case) -> int:
    return library.workspace_bytes(_shapes(case), case.config)


def _shapes(case):
    """Inputs of these shapes, whose values do not matter."""
    small = random_inputs(replace(case, tokens=1), 0)
    tokens = case.tokens
    blocks_q, blocks_k = -(-tokens // case.config.block_q), -(-tokens // case.config.block_k)
    query = torch.empty(1, tokens, case.heads, case.head_dim, dtype=case.dtype)
    key = torch.empty(1, tokens, case.kv_heads, case.head_dim, dtype=case.dtype)
    words = -(-blocks_k // 32)
    return small._replace(
        query=query,
        key=key,
        value=key,
        token_order=torch.zeros(len(small.token_order), tokens, dtype=torch.int32),
        block_mask=torch.zeros(1, case.heads, blocks_q, words, dtype=torch.int32),
        tile_order=torch.zeros(1, case.heads * blocks_q, dtype=torch.int32),
    )


def test_16_bit_values_are_refused(library, fresh_seed):
    case = at_bits(SMALL, 4, 16)
    expected = "pv_bits: expected 8 or 4 where smoothing is 1"
    with pytest.raises(BackendUnavailableError, match=expected):
        library.forward(random_inputs(case, fresh_seed), case.config)


def test_calls_of_two_threads_at_once(library, fresh_seed):
    cases = [replace(SMALL, batch=1, key_length=None), at_bits(SMALL, 4, 4)]
    calls = [(random_inputs(case, fresh_seed), case.config) for case in cases]
    expected = [library.forward(*call) for call in calls]
    outputs: dict[int, torch.Tensor] = {}

    def work(index: int) -> None:
        outputs[index] = library.forward(*calls[index])

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(outputs[index], expected[index]) for index in range(2))


@pytest.mark.long
def test_schedules_do_not_change_a_bit(tmp_path, library, fresh_seed):
    """Late copies into poison and random schedules, in a process of their own."""
    wide = replace(EVERYTHING, block_q=128, block_k=128, pv_bits=4)
    cases = [
        replace(SMALL, heads=2, kv_heads=1, config=EVERYTHING),
        replace(SMALL, batch=1, key_length=None, heads=1, kv_heads=1, head_dim=128,
                tokens=128 * 19, density=0.7, config=wide),
    ]  # fmt: skip
    calls = [(random_inputs(case, fresh_seed), case.config) for case in cases]
    expected = [library.forward(*call, sm=MMA) for call in calls]
    modes = {
        "late": {"PARO_EMULATOR_LATE": "1"},
        "late-seeded": {"PARO_EMULATOR_LATE": "1", "PARO_EMULATOR_SEED": "8"},
    }
    seen = seen_in_modes(library.path, calls, expected, modes, tmp_path, MMA)
    assert seen == dict.fromkeys(modes, "-")
