"""The CUDA kernels, run by the emulator, against the reference: same case table, same tolerance."""

from __future__ import annotations

import math
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from paro_trt.errors import BackendUnavailableError
from paro_trt.op import native
from paro_trt.op.reference import paro_attention_reference
from paro_trt.op.spec import AttentionConfig, AttentionInputs
from tests.support.cases import BIT_PAIRS, CASES, OpCase, random_inputs
from tests.support.numerics import compare
from tests.support.stress import STRESS_CASE, STRESSES

from .kernel_library import emulated_kernels, seen_in_modes
from .random_calls import random_case

NATIVE_FOUR_BIT, UNPACKED_FOUR_BIT = 80, 90
SMALL = OpCase("small", 300, batch=2, heads=4, kv_heads=2, bins=2, dtype=torch.float16)
DTYPES = [torch.float16, torch.bfloat16]


def dtypes_of(bits: tuple[int, int], seed: int) -> list[torch.dtype]:
    """Both where they have kernels of their own; else any, they differ in how tokens are read."""
    return DTYPES if 16 in bits else [DTYPES[seed % 2]]


@pytest.fixture(scope="module")
def library() -> native.NativeLibrary:
    return emulated_kernels()


def outcome(library, case, seed, sm=0):
    inputs = random_inputs(case, seed)
    return compare(library.forward(inputs, case.config, sm=sm), inputs, case.config)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
@pytest.mark.parametrize("bits", [(16, 16), (8, 8), (4, 4)], ids=lambda b: f"qk{b[0]}-pv{b[1]}")
@pytest.mark.parametrize("pool", [False, True], ids=["dropped", "pooled"])
def test_every_case_equals_the_reference(case, bits, pool, library, fresh_seed):
    for dtype in dtypes_of(bits, fresh_seed):
        result = outcome(library, replace(case, dtype=dtype).with_bits(*bits, pool), fresh_seed)
        assert result.ok, (dtype, result)


@pytest.mark.parametrize(
    ("bits", "sm"),
    [
        # Without 4 bits and wgmma, which has 8, both generations run the same kernels.
        pytest.param(
            bits, sm, id=f"qk{bits[0]}-pv{bits[1]}-{sm}",
            marks=[pytest.mark.long] if sm == UNPACKED_FOUR_BIT and 16 in bits and 4 not in bits
            else [],
        )
        for bits in BIT_PAIRS
        for sm in (NATIVE_FOUR_BIT, UNPACKED_FOUR_BIT)
    ],
)  # fmt: skip
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("block_q", [64, 128])
@pytest.mark.parametrize("block_k", [64, 128])
def test_every_kernel_equals_the_reference(
    bits, head_dim, block_q, block_k, sm, library, fresh_seed
):
    case = replace(SMALL, heads=2, kv_heads=1, head_dim=head_dim, key_length=(300, 171))
    case = replace(case, config=AttentionConfig(block_q, block_k)).with_bits(*bits, True)
    for dtype in dtypes_of(bits, fresh_seed):
        result = outcome(library, replace(case, dtype=dtype), fresh_seed, sm)
        assert result.ok, (dtype, result)


@pytest.mark.parametrize("call", range(16))
def test_random_calls_equal_the_reference(call, library, fresh_seed):
    """For a GPU of either way with 4 bits, or for Hopper, whose 8-bit kernels are others."""
    rng = random.Random(fresh_seed + call)
    case, sm = random_case(rng, DTYPES, most_tokens=700), rng.choice((80, 90, 100))
    result = outcome(library, case, fresh_seed + call, sm)
    assert result.ok, (case, sm, result)


@pytest.mark.parametrize("qk_bits", [16, 8])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_logits_of_any_size_give_finite_results(qk_bits, dtype, library, fresh_seed):
    """Where they are far apart, the rounding of the largest is more than a P of 16 bits holds."""
    stress = next(stress for stress in STRESSES if stress.name == "range")
    config = AttentionConfig(64, 64, qk_bits, 16, pool_dropped=True)
    inputs = stress.inputs(replace(STRESS_CASE, dtype=dtype, config=config), fresh_seed)
    assert library.forward(inputs, config, sm=NATIVE_FOUR_BIT).isfinite().all()


@pytest.mark.parametrize("sm", [NATIVE_FOUR_BIT, pytest.param(100, marks=pytest.mark.long)])
def test_schedules_do_not_change_a_bit(sm, tmp_path, library, fresh_seed):
    """Late copies into poison and random schedules, in a process of their own."""
    cases = [SMALL.with_bits(*bits, True) for bits in ((8, 8), (16, 16), (4, 4))]
    # One slot, which is loaded again as soon as it is free.
    one_slot = OpCase("one slot", 300, heads=1, kv_heads=1, head_dim=128, density=0.8,
                      dtype=torch.float16, config=AttentionConfig(128, 128))  # fmt: skip
    cases.append(one_slot.with_bits(16, 8, True))
    # Slots of keys and of values apart; two query blocks in a thread block, also so.
    apart = replace(one_slot, config=AttentionConfig(128, 64))
    cases.append(apart.with_bits(8, 16, True))
    cases.append(replace(apart, config=AttentionConfig(64, 64)).with_bits(8, 16, True))
    calls = [(random_inputs(case, fresh_seed), case.config) for case in cases]
    expected = [library.forward(*call, sm=sm) for call in calls]
    modes = {
        f"late {late}, seed {seed}": {
            "PARO_EMULATOR_LATE": late, **({"PARO_EMULATOR_SEED": seed} if seed else {})
        }
        for late, seed in (("1", ""), ("0", "3"), ("1", "3"), ("0", "8"), ("1", "8"))
    }  # fmt: skip
    seen = seen_in_modes(library.path, calls, expected, modes, tmp_path, sm)
    assert seen == dict.fromkeys(modes, "-")


@pytest.mark.parametrize("bits", [(16, 16), (8, 8), (4, 4), (16, 8), (8, 16)])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["query", "key", "value"])
def test_non_finite_values_stay_where_the_reference_has_them(where, bad, bits, library, fresh_seed):
    case = OpCase("poison", 200, dtype=torch.float16, config=AttentionConfig(64, 64))
    case = case.with_bits(*bits, True)
    inputs = random_inputs(case, fresh_seed)
    tensor = getattr(inputs, where).clone()
    tensor[0, 77, 1, 9] = bad
    inputs = inputs._replace(**{where: tensor})
    reference = paro_attention_reference(inputs, case.config)
    output = library.forward(inputs, case.config)
    assert torch.equal(output.isfinite(), reference.isfinite())


@pytest.mark.parametrize("bits", [(8, 8), (16, 8), (8, 4)])
@pytest.mark.parametrize("size", [100.0, 1e-4, 0.0])
def test_huge_and_tiny_inputs(size, bits, library, fresh_seed):
    """At 100 a logit is rounded by more than P has room above its largest code."""
    case = replace(SMALL, dtype=torch.bfloat16).with_bits(*bits, True)
    inputs = random_inputs(case, fresh_seed)
    identity = torch.tensor([0.0, 1.0, 0.0, 1.0])[:, None, None].expand_as(inputs.channel_affine)
    scaled = AttentionInputs(*(x * size for x in inputs[:3]), *inputs[3:])
    scaled = scaled._replace(channel_affine=identity.contiguous())
    result = compare(library.forward(scaled, case.config), scaled, case.config)
    assert result.ok, result


def test_threads_with_calls_of_different_lengths_do_not_disturb_each_other(library, fresh_seed):
    """Both launch one kernel, which needs more than 48 KB: its limit is one for all threads."""
    wide = replace(SMALL, batch=1, heads=1, kv_heads=1, bins=1, head_dim=128)
    cases = [replace(wide, tokens=tokens).with_bits(16, 16, True) for tokens in (500, 60)]
    calls = [(random_inputs(case, fresh_seed), case.config) for case in cases]
    expected = [library.forward(*call) for call in calls]
    with ThreadPoolExecutor(2) as pool:
        outputs = list(pool.map(lambda call: library.forward(*call), calls * 2))
    assert all(map(torch.equal, outputs, expected * 2))


def test_heads_in_groups_give_the_same_bits(library, fresh_seed):
    case = SMALL.with_bits(8, 8, True)
    inputs = random_inputs(case, fresh_seed)
    whole = library.workspace_bytes(inputs, case.config)
    part = library.workspace_bytes(inputs, case.config, max_workspace=whole // 2)
    assert part <= whole // 2
    output = library.forward(inputs, case.config, max_workspace=whole // 2)
    assert torch.equal(output, library.forward(inputs, case.config))


def test_a_workspace_too_small_for_one_head_is_refused(library, fresh_seed):
    case = replace(SMALL, batch=1, kv_heads=1).with_bits(8, 8, True)
    inputs = random_inputs(case, fresh_seed)
    least = library.workspace_bytes(inputs, case.config)
    said = f"max_workspace: expected at least {least} bytes.* got {least - 1}"
    with pytest.raises(native.NativeError, match=said):
        library.workspace_bytes(inputs, case.config, max_workspace=least - 1)


def test_a_million_tokens_are_counted_in_64_bits(library):
    """3 * 2^30 elements; the tensors are never touched, so they take no memory."""
    tokens, heads, head_dim = 1_000_000, 48, 64
    inputs = AttentionInputs(
        *(torch.empty(1, tokens, heads, head_dim, dtype=torch.float16) for _ in range(3)),
        token_order=torch.empty(1, tokens, dtype=torch.int32),
        head_order=torch.empty(heads, dtype=torch.int32),
        block_mask=torch.empty(1, heads, 7813, 489, dtype=torch.int32),
        tile_order=torch.empty(1, heads * 7813, dtype=torch.int32),
        channel_affine=torch.empty(4, heads, head_dim),
        mask_bin=torch.empty(1, dtype=torch.int32),
        key_length=torch.empty(1, dtype=torch.int32),
    )
    config = AttentionConfig(128, 64, qk_bits=8, pv_bits=8)
    codes = 15_625 * 64 * heads * head_dim
    scales = -(-15_625 * heads * 4 // 256) * 256
    tiles_taken = 256
    assert library.workspace_bytes(inputs, config) == 2 * codes + 2 * scales + tiles_taken


@pytest.mark.parametrize("name", ["token_order", "head_order", "tile_order", "mask_bin"])
@pytest.mark.parametrize("value", [-(2**31), 2**31 - 1])
def test_indices_out_of_range_are_clamped(name, value, library, fresh_seed):
    """TensorRT times kernels on arbitrary plans; under the emulator a wild read would crash."""
    case = SMALL.with_bits(8, 8, True)
    inputs = random_inputs(case, fresh_seed)
    inputs = inputs._replace(**{name: torch.full_like(getattr(inputs, name), value)})
    assert library.forward(inputs, case.config).shape == inputs.query.shape


def test_float32_and_old_gpus_are_refused(library, fresh_seed):
    case = replace(SMALL, dtype=torch.float32).with_bits(8, 8, False)
    with pytest.raises(BackendUnavailableError, match="expected float16 or bfloat16"):
        library.forward(random_inputs(case, fresh_seed), case.config)
    case = SMALL.with_bits(8, 8, False)
    with pytest.raises(BackendUnavailableError, match="sm_80 or later, got sm_75"):
        library.forward(random_inputs(case, fresh_seed), case.config, sm=75)


def test_description_names_the_kernel(library, fresh_seed):
    case = SMALL.with_bits(4, 4, False)
    inputs = random_inputs(case, fresh_seed)
    assert "native" in library.describe(inputs, case.config, sm=89)
    assert "unpacked" in library.describe(inputs, case.config, sm=90)
