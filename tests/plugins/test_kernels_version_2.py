"""Version 2 in the CUDA kernels, run by the emulator: fine summaries, mean correction, routing."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from paro_trt.op import native
from paro_trt.op.reference import paro_attention_reference
from paro_trt.op.spec import AttentionConfig, AttentionInputs
from tests.support.cases import BIT_PAIRS, VERSION_2_CASES, OpCase, at_bits, random_inputs
from tests.support.numerics import compare

from .kernel_library import emulated_kernels, seen_in_modes

MMA, HOPPER, BLACKWELL = 80, 90, 100
DTYPES = [torch.float16, torch.bfloat16]
EVERYTHING = AttentionConfig(
    64, 64, pool_dropped=True, fine_summaries=True, mean_correction=True, routing=True
)
SMALL = OpCase(
    "small", 300, batch=2, heads=4, kv_heads=2, bins=2, density=0.2, key_length=(300, 171),
    dtype=torch.float16, config=EVERYTHING,
)  # fmt: skip
LONG = pytest.mark.long
FEATURES = ["fine_summaries", "mean_correction", "routing"]


@pytest.fixture(scope="module")
def library() -> native.NativeLibrary:
    return emulated_kernels()


def outcome(library, case, seed, sm=0):
    inputs = random_inputs(case, seed)
    return compare(library.forward(inputs, case.config, sm=sm), inputs, case.config)


@pytest.mark.parametrize("case", VERSION_2_CASES, ids=lambda c: c.name)
@pytest.mark.parametrize(
    ("bits", "sm"),
    [
        pytest.param((8, 8), MMA, marks=LONG),
        ((8, 8), HOPPER),
        pytest.param((16, 16), MMA, marks=LONG),
        pytest.param((16, 16), HOPPER, marks=LONG),
        pytest.param((4, 4), MMA, marks=LONG),
        ((4, 4), HOPPER),
    ],
)
def test_every_case_equals_the_reference(case, bits, sm, library, fresh_seed):
    if case.dtype == torch.float32:
        case = replace(case, dtype=DTYPES[fresh_seed % 2])
    result = outcome(library, at_bits(case, *bits), fresh_seed, sm)
    assert result.ok, result


@pytest.mark.parametrize("bits", BIT_PAIRS, ids=lambda b: f"qk{b[0]}-pv{b[1]}")
@pytest.mark.parametrize("sm", [MMA, BLACKWELL])
def test_every_pair_of_bits_equals_the_reference(bits, sm, library, fresh_seed):
    block_q, block_k, head_dim = [(64, 128, 64), (128, 64, 128), (128, 128, 64)][fresh_seed % 3]
    config = replace(EVERYTHING, block_q=block_q, block_k=block_k)
    case = at_bits(replace(SMALL, head_dim=head_dim, heads=2, kv_heads=1, config=config), *bits)
    result = outcome(library, replace(case, dtype=DTYPES[fresh_seed % 2]), fresh_seed, sm)
    assert result.ok, result


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize(
    "config",
    [
        *(replace(EVERYTHING, block_q=q, block_k=k) for q in (64, 128) for k in (64, 128)),
        AttentionConfig(64, 128, mean_correction=True, routing=True),
    ],
    ids=lambda c: f"{c.block_q}x{c.block_k}{'-fine' if c.fine_summaries else ''}",
)
def test_every_wgmma_kernel_equals_the_reference(config, head_dim, library, fresh_seed):
    """Also the correction, by mma.sync, reads tiles that stage 1 wrote as wgmma takes them."""
    dtype = DTYPES[fresh_seed % 2]
    case = at_bits(replace(SMALL, head_dim=head_dim, config=config, dtype=dtype), 8, 8)
    inputs = random_inputs(case, fresh_seed)
    assert library.describe(inputs, case.config, sm=HOPPER).startswith("wgmma")
    result = compare(library.forward(inputs, case.config, sm=HOPPER), inputs, case.config)
    assert result.ok, result


def only_fine(case: OpCase, seed: int) -> AttentionInputs:
    """No exact block; the first query blocks have every block fine, the others every one coarse."""
    inputs = random_inputs(case, seed)
    fine = torch.zeros_like(inputs.fine_mask)
    fine[:, :, :3] = -1
    return inputs._replace(block_mask=torch.zeros_like(inputs.block_mask), fine_mask=fine)


@pytest.mark.parametrize("head_dim", [64, pytest.param(128, marks=LONG)])
def test_a_walk_of_fine_steps_longer_than_the_ring(head_dim, library, fresh_seed):
    """Twelve steps, the last of them not full."""
    config = AttentionConfig(128, 64, pool_dropped=True, fine_summaries=True)
    case = OpCase("long", 64 * 187 + 3, heads=1, kv_heads=1, head_dim=head_dim,
                  dtype=torch.float16, config=config)  # fmt: skip
    case = at_bits(case, 8, 8)
    inputs = only_fine(case, fresh_seed)
    output = library.forward(inputs, case.config, sm=(MMA, HOPPER)[fresh_seed % 2])
    result = compare(output, inputs, case.config)
    assert result.ok, result


def test_many_query_blocks_of_the_correction(library, fresh_seed):
    """More than one tile of 64 query blocks, and runs of 128 rows that two query blocks share."""
    config = replace(EVERYTHING, fine_summaries=True)
    case = OpCase("tiles", 64 * 67 + 3, heads=1, kv_heads=1, density=0.05, dtype=torch.float16,
                  config=config)  # fmt: skip
    case = at_bits(case, 8, 8)
    inputs = random_inputs(case, fresh_seed)
    inputs = inputs._replace(corrected_heads=torch.ones(1, dtype=torch.int32))
    result = compare(library.forward(inputs, case.config), inputs, case.config)
    assert result.ok, result


@pytest.mark.parametrize("feature", FEATURES)
def test_unused_plan_tensors_change_nothing(feature, library, fresh_seed):
    """A fine mask within the exact blocks, no corrected head, no block to choose."""
    case = at_bits(
        replace(SMALL, config=replace(SMALL.config, **dict.fromkeys(FEATURES, False))), 8, 8
    )
    inputs = random_inputs(case, fresh_seed)
    unused = {
        "fine_summaries": ("fine_mask", inputs.block_mask),
        "mean_correction": ("corrected_heads", torch.zeros(case.heads, dtype=torch.int32)),
        "routing": ("dynamic_blocks", torch.zeros(case.bins, case.heads, dtype=torch.int32)),
    }
    name, tensor = unused[feature]
    used = replace(case.config, **{feature: True})
    output = library.forward(inputs._replace(**{name: tensor}), used)
    assert torch.equal(output, library.forward(inputs, case.config))


def test_all_blocks_chosen_at_run_time_equal_a_full_mask(library, fresh_seed):
    config = AttentionConfig(64, 64, pool_dropped=True, routing=True)
    case = at_bits(replace(SMALL, config=config), 8, 8)
    inputs = random_inputs(case, fresh_seed)
    every = inputs._replace(dynamic_blocks=torch.full_like(inputs.dynamic_blocks, 2**31 - 1))
    bits = torch.full_like(inputs.block_mask, 2**5 - 1)  # 300 tokens are five blocks
    full = inputs._replace(block_mask=bits, dynamic_blocks=torch.zeros_like(inputs.dynamic_blocks))
    assert torch.equal(library.forward(every, case.config), library.forward(full, case.config))


def test_ties_go_to_the_lower_block(library, fresh_seed):
    """A query that is not a number makes every error of its block so: the first blocks off the mask
    are chosen. The other rows of the block show which."""
    config = AttentionConfig(64, 64, pool_dropped=True, routing=True)
    case = OpCase("ties", 640, heads=1, kv_heads=1, density=0.0, dtype=torch.float16, config=config)
    inputs = random_inputs(replace(case, config=replace(config, routing=False)), fresh_seed)
    first_rows = inputs.token_order[int(inputs.head_order[0])].long()[::64]
    query = inputs.query.clone()
    query[0, first_rows, 0, 0] = math.nan
    inputs = inputs._replace(query=query)
    routed = inputs._replace(dynamic_blocks=torch.tensor([[3]], dtype=torch.int32))
    words = [_first_blocks(diagonal, 3) for diagonal in range(10)]
    static = inputs._replace(block_mask=torch.tensor(words, dtype=torch.int32).view(1, 1, 10, 1))
    output = library.forward(routed, config)
    expected = library.forward(static, replace(config, routing=False))
    assert int(output.isnan().any(dim=3).sum()) == 10
    assert torch.equal(output.nan_to_num(9.0), expected.nan_to_num(9.0))


def _first_blocks(diagonal: int, count: int) -> int:
    """The mask word of a diagonal block and the first `count` others."""
    others = [block for block in range(10) if block != diagonal][:count]
    return sum(1 << block for block in (diagonal, *others))


@pytest.mark.parametrize(("bits", "sm"), [((8, 8), MMA), ((16, 16), MMA), ((8, 8), HOPPER)])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["query", "key", "value"])
def test_non_finite_values_stay_where_the_reference_has_them(
    where, bad, bits, sm, library, fresh_seed
):
    case = at_bits(OpCase("poison", 200, dtype=torch.float16, config=EVERYTHING), *bits)
    inputs = random_inputs(case, fresh_seed)
    tensor = getattr(inputs, where).clone()
    tensor[0, 77, 1, 9] = bad
    inputs = inputs._replace(**{where: tensor})
    reference = paro_attention_reference(inputs, case.config)
    output = library.forward(inputs, case.config, sm=sm)
    assert torch.equal(output.isfinite(), reference.isfinite())


@pytest.mark.parametrize("name", ["fine_mask", "corrected_heads", "dynamic_blocks"])
@pytest.mark.parametrize("value", [-(2**31), -1, 2**31 - 1])
def test_plan_tensors_may_contain_anything(name, value, library, fresh_seed):
    """TensorRT times kernels on arbitrary plans."""
    case = at_bits(SMALL, 8, 8)
    inputs = random_inputs(case, fresh_seed)
    inputs = inputs._replace(**{name: torch.full_like(getattr(inputs, name), value)})
    assert library.forward(inputs, case.config).shape == inputs.query.shape


def test_heads_in_groups_give_the_same_bits(library, fresh_seed):
    case = at_bits(SMALL, 8, 8)
    inputs = random_inputs(case, fresh_seed)
    whole = library.workspace_bytes(inputs, case.config)
    output = library.forward(inputs, case.config, max_workspace=whole // 2)
    assert torch.equal(output, library.forward(inputs, case.config))


@pytest.mark.parametrize("feature", FEATURES)
def test_the_workspace_has_room_for_what_is_used(feature, library, fresh_seed):
    off = replace(SMALL.config, **dict.fromkeys(FEATURES, False))
    used = at_bits(replace(SMALL, config=replace(off, **{feature: True})), 8, 8)
    inputs = random_inputs(used, fresh_seed)
    without = replace(used.config, **{feature: False})
    bare = inputs._replace(fine_mask=None, corrected_heads=None, dynamic_blocks=None)
    more = library.workspace_bytes(inputs, used.config) - library.workspace_bytes(bare, without)
    assert more > 0


@pytest.mark.parametrize(
    ("bits", "sm"),
    [
        ((8, 8), MMA),
        pytest.param((8, 8), HOPPER, marks=LONG),
        pytest.param((16, 16), MMA, marks=LONG),
        pytest.param((4, 4), MMA, marks=LONG),
    ],
)
def test_schedules_do_not_change_a_bit(bits, sm, tmp_path, library, fresh_seed):
    """Late copies into poison and random schedules, in a process of their own."""
    cases = [at_bits(SMALL, *bits)]
    wide = replace(EVERYTHING, block_q=128, block_k=128)
    cases.append(at_bits(replace(SMALL, batch=1, key_length=None, heads=1, kv_heads=1, head_dim=128,
                                 tokens=64 * 37, config=wide), *bits))  # fmt: skip
    calls = [(random_inputs(case, fresh_seed), case.config) for case in cases]
    expected = [library.forward(*call, sm=sm) for call in calls]
    modes = {
        "late": {"PARO_EMULATOR_LATE": "1"},
        "seeded": {"PARO_EMULATOR_SEED": "3"},
        "late-seeded": {"PARO_EMULATOR_LATE": "1", "PARO_EMULATOR_SEED": "8"},
    }
    seen = seen_in_modes(library.path, calls, expected, modes, tmp_path, sm)
    assert seen == dict.fromkeys(modes, "-")
