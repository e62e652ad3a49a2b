"""The wgmma kernels, run by the emulator: the tests of test_kernels.py, and their own dangers."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from paro_trt.op import native
from paro_trt.op.reference import paro_attention_reference
from paro_trt.op.spec import AttentionConfig, AttentionInputs
from tests.support.cases import CASES, OpCase, random_inputs
from tests.support.numerics import compare

from .emulator_builds import MODES
from .kernel_library import emulated_kernels, seen_in_modes

HOPPER = 90
SMALL = OpCase("small", 300, batch=2, heads=4, kv_heads=2, bins=2, dtype=torch.float16)
DTYPES = [torch.float16, torch.bfloat16]


@pytest.fixture(scope="module")
def library() -> native.NativeLibrary:
    return emulated_kernels()


def outcome(library, inputs, config):
    return compare(library.forward(inputs, config, sm=HOPPER), inputs, config)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
@pytest.mark.parametrize("pool", [False, True], ids=["dropped", "pooled"])
@pytest.mark.parametrize("dtype", DTYPES, ids=["f16", "bf16"])
def test_every_case_equals_the_reference(case, pool, dtype, library, fresh_seed):
    case = replace(case, dtype=dtype).with_bits(8, 8, pool)
    result = outcome(library, random_inputs(case, fresh_seed), case.config)
    assert result.ok, result


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("block_q", [64, 128])
@pytest.mark.parametrize("block_k", [64, 128])
@pytest.mark.parametrize("pool", [False, True], ids=["dropped", "pooled"])
def test_every_kernel_equals_the_reference(head_dim, block_q, block_k, pool, library, fresh_seed):
    case = replace(SMALL, head_dim=head_dim, key_length=(300, 171))
    case = replace(case, config=AttentionConfig(block_q, block_k)).with_bits(8, 8, pool)
    result = outcome(library, random_inputs(case, fresh_seed), case.config)
    assert result.ok, result


@pytest.mark.parametrize("pool", [False, True], ids=["dropped", "pooled"])
def test_a_walk_longer_than_ring_and_slot_queue(pool, library, fresh_seed):
    """45 key blocks: the ring goes round several times, the producer fetches scales twice."""
    case = OpCase("long", 45 * 64 - 11, heads=1, kv_heads=1, density=0.95, dtype=torch.float16)
    case = case.with_bits(8, 8, pool)
    result = outcome(library, random_inputs(case, fresh_seed), case.config)
    assert result.ok, result


def growing(case: OpCase, seed: int) -> AttentionInputs:
    """Keys that grow along the order: a row's largest logit rises by more than the slack between
    references, several times in a walk."""
    inputs = random_inputs(case, seed)
    positions = torch.empty(case.tokens)
    positions[inputs.token_order[inputs.head_order[0]].long()] = torch.arange(case.tokens).float()
    growth = torch.exp2(positions / case.tokens * 6.0)[None, :, None, None]
    key = (inputs.key.float() * growth).to(case.dtype)
    return inputs._replace(key=key)


def test_references_that_move(library, fresh_seed):
    case = OpCase("growing", 512, heads=1, kv_heads=1, density=1.0, dtype=torch.bfloat16)
    case = case.with_bits(8, 8, False)
    result = outcome(library, growing(case, fresh_seed), case.config)
    assert result.ok, result


def with_empty_rows(inputs: AttentionInputs) -> AttentionInputs:
    """Query blocks that attend nothing, before and after others of a thread block."""
    masks = inputs.block_mask.clone()
    masks[:, ::2, 1:] = 0
    return inputs._replace(block_mask=masks)


@pytest.mark.parametrize("block_q", [64, 128])
def test_tiles_without_steps(block_q, library, fresh_seed):
    case = replace(SMALL, config=AttentionConfig(block_q, 64)).with_bits(8, 8, False)
    inputs = with_empty_rows(random_inputs(case, fresh_seed))
    result = outcome(library, inputs, case.config)
    assert result.ok, result


@pytest.mark.parametrize("tokens", [100, 200], ids=["one-tile", "two-tiles"])
def test_fewer_tiles_than_thread_blocks_fit(tokens, library, fresh_seed):
    case = OpCase("few", tokens, heads=1, kv_heads=1, dtype=torch.float16).with_bits(8, 8, True)
    result = outcome(library, random_inputs(case, fresh_seed), case.config)
    assert result.ok, result


def test_schedules_do_not_change_a_bit(tmp_path, library, fresh_seed):
    """Late copies and products, random schedules, and thread blocks that take tiles at a time."""
    cases = [
        replace(SMALL, head_dim=head_dim, config=AttentionConfig(block_q, block_k))
        for head_dim, block_q, block_k in [(64, 128, 64), (128, 128, 128), (128, 64, 64)]
    ]
    cases = [case.with_bits(8, 8, True) for case in cases]
    calls = [(random_inputs(case, fresh_seed), case.config) for case in cases]
    empty = cases[-1].with_bits(8, 8, False)
    calls.append((with_empty_rows(random_inputs(empty, fresh_seed)), empty.config))
    expected = [library.forward(*call, sm=HOPPER) for call in calls]
    modes = {**MODES, "seeded again": {"PARO_EMULATOR_SEED": "5"}}
    modes["late-seeded again"] = {"PARO_EMULATOR_SEED": "6", "PARO_EMULATOR_LATE": "1"}
    modes["at a time"] = {"PARO_EMULATOR_SEED": "7", "PARO_EMULATOR_THREADS": "3"}
    seen = seen_in_modes(library.path, calls, expected, modes, tmp_path)
    assert seen == dict.fromkeys(modes, "-")


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["query", "key", "value"])
def test_non_finite_values_stay_where_the_reference_has_them(where, bad, library, fresh_seed):
    case = OpCase("poison", 200, dtype=torch.float16, config=AttentionConfig(64, 64))
    case = case.with_bits(8, 8, True)
    inputs = random_inputs(case, fresh_seed)
    tensor = getattr(inputs, where).clone()
    tensor[0, 77, 1, 9] = bad
    inputs = inputs._replace(**{where: tensor})
    reference = paro_attention_reference(inputs, case.config)
    output = library.forward(inputs, case.config, sm=HOPPER)
    assert torch.equal(output.isfinite(), reference.isfinite())


@pytest.mark.parametrize("size", [100.0, 1e-4, 0.0])
def test_huge_and_tiny_inputs(size, library, fresh_seed):
    case = replace(SMALL, dtype=torch.bfloat16).with_bits(8, 8, True)
    inputs = random_inputs(case, fresh_seed)
    identity = torch.tensor([0.0, 1.0, 0.0, 1.0])[:, None, None].expand_as(inputs.channel_affine)
    scaled = AttentionInputs(*(x * size for x in inputs[:3]), *inputs[3:])
    scaled = scaled._replace(channel_affine=identity.contiguous())
    result = outcome(library, scaled, case.config)
    assert result.ok, result


def test_heads_in_groups_give_the_same_bits(library, fresh_seed):
    case = SMALL.with_bits(8, 8, True)
    inputs = random_inputs(case, fresh_seed)
    whole = library.workspace_bytes(inputs, case.config, sm=HOPPER)
    parts = library.forward(inputs, case.config, sm=HOPPER, max_workspace=whole // 2)
    assert torch.equal(parts, library.forward(inputs, case.config, sm=HOPPER))


@pytest.mark.parametrize("name", ["token_order", "head_order", "tile_order", "mask_bin"])
@pytest.mark.parametrize("value", [-(2**31), 2**31 - 1])
def test_indices_out_of_range_are_clamped(name, value, library, fresh_seed):
    case = SMALL.with_bits(8, 8, True)
    inputs = random_inputs(case, fresh_seed)
    inputs = inputs._replace(**{name: torch.full_like(getattr(inputs, name), value)})
    assert library.forward(inputs, case.config, sm=HOPPER).shape == inputs.query.shape


def test_the_rule_says_which_kernel_and_why(library, fresh_seed):
    def described(qk_bits, pv_bits, sm):
        case = SMALL.with_bits(qk_bits, pv_bits, False)
        return library.describe(random_inputs(case, fresh_seed), case.config, sm=sm)

    assert described(8, 8, 90).startswith("wgmma for sm_90: 128 x 64 tiles, 384 threads")
    assert "8-bit QK and PV on sm_90" in described(8, 8, 90)
    assert described(8, 16, 90).startswith("mma.sync for sm_90")
    assert "take 8-bit QK and PV" in described(8, 16, 90)
    assert described(8, 8, 100).startswith("mma.sync for sm_100")
    assert "wgmma is an instruction of sm_90 alone" in described(8, 8, 100)


def test_a_hopper_may_be_asked_for_the_kernels_of_others(library, fresh_seed):
    """What benchmarks compare with: another generation's answer is mma.sync's."""
    case = SMALL.with_bits(8, 8, True)
    inputs = random_inputs(case, fresh_seed)
    assert library.describe(inputs, case.config, sm=100).startswith("mma.sync")
    result = compare(library.forward(inputs, case.config, sm=100), inputs, case.config)
    assert result.ok, result
