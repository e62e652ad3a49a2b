"""Version 2 of the op on a GPU against the reference: case tables and tolerance as emulated."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from paro_trt.bench.case import random_inputs as random_inputs_of_any_choice
from paro_trt.op.c_abi import WORKSPACE_ALIGNMENT, attention_call, launch_on
from paro_trt.op.spec import AttentionConfig
from tests.support.cases import (
    BIT_PAIRS,
    SMOOTHED_CASES,
    VERSION_2_CASES,
    OpCase,
    at_bits,
    random_inputs,
)
from tests.support.numerics import compare

from .gpu_runs import forward, to_gpu
from .test_cuda_gpu import DTYPES, SIZES, library, pytestmark, sm

__all__ = ["library", "pytestmark", "sm"]

EVERYTHING = AttentionConfig(
    64, 64, pool_dropped=True, fine_summaries=True, mean_correction=True, routing=True
)
SMALL = OpCase(
    "small", 300, batch=2, heads=4, kv_heads=2, bins=2, density=0.2, key_length=(300, 171),
    dtype=torch.float16, config=EVERYTHING,
)  # fmt: skip
SMOOTHED = replace(SMALL, config=replace(EVERYTHING, qk_bits=4, pv_bits=8, smoothing=True))


def assert_equal(library, case: OpCase, seed: int, sm: int) -> None:
    """Of the library to the reference, in both 16-bit types."""
    for dtype in DTYPES:
        typed = replace(case, dtype=dtype)
        inputs = random_inputs(typed, seed)
        result = compare(forward(library, inputs, typed.config, sm), inputs, typed.config)
        assert result.ok, (dtype, result)


@pytest.mark.parametrize("case", VERSION_2_CASES, ids=lambda c: c.name)
@pytest.mark.parametrize("bits", [(16, 16), (8, 8), (4, 4)], ids=lambda b: f"qk{b[0]}-pv{b[1]}")
def test_every_case_equals_the_reference(case, bits, sm, library, fresh_seed):
    assert_equal(library, at_bits(case, *bits), fresh_seed, sm)


@pytest.mark.parametrize("case", SMOOTHED_CASES, ids=lambda c: c.name)
@pytest.mark.parametrize("pv_bits", [8, 4])
def test_every_smoothed_case_equals_the_reference(case, pv_bits, sm, library, fresh_seed):
    assert_equal(library, at_bits(case, 4, pv_bits), fresh_seed, sm)


@pytest.mark.parametrize("bits", BIT_PAIRS, ids=lambda b: f"qk{b[0]}-pv{b[1]}")
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("blocks", SIZES, ids=lambda b: f"q{b[0]}-k{b[1]}")
def test_every_kernel_equals_the_reference(bits, head_dim, blocks, sm, library, fresh_seed):
    config = replace(EVERYTHING, block_q=blocks[0], block_k=blocks[1])
    case = replace(SMALL, head_dim=head_dim, config=config)
    assert_equal(library, at_bits(case, *bits), fresh_seed, sm)


@pytest.mark.parametrize("pv_bits", [8, 4])
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("blocks", SIZES, ids=lambda b: f"q{b[0]}-k{b[1]}")
def test_every_smoothed_kernel_equals_the_reference(
    pv_bits, head_dim, blocks, sm, library, fresh_seed
):
    config = replace(SMOOTHED.config, block_q=blocks[0], block_k=blocks[1], pv_bits=pv_bits)
    assert_equal(library, replace(SMOOTHED, head_dim=head_dim, config=config), fresh_seed, sm)


@pytest.mark.parametrize("config", [EVERYTHING, SMOOTHED.config], ids=["plain", "smoothed"])
@pytest.mark.parametrize("head_dim", [64, 128])
def test_thousands_of_tokens(config, head_dim, sm, library, fresh_seed):
    """Without routing: of thousands of rows some choose between blocks that are as good."""
    case = OpCase(
        "long", 4608, head_dim=head_dim, density=0.1, dtype=torch.bfloat16,
        config=replace(config, routing=False),
    )  # fmt: skip
    case = at_bits(case, 4 if config.smoothing else 8, 8)
    inputs = random_inputs(case, fresh_seed)
    result = compare(forward(library, inputs, case.config, sm), inputs, case.config)
    assert result.ok, result


@pytest.mark.parametrize("config", [EVERYTHING, SMOOTHED.config], ids=["plain", "smoothed"])
def test_every_run_gives_the_same_bits(config, sm, library, fresh_seed):
    """Blocks of threads take tiles in another order each time."""
    case = OpCase(
        "repeated", 2048, heads=4, kv_heads=4, density=0.2, dtype=torch.float16, config=config
    )
    case = at_bits(case, 4 if config.smoothing else 8, 8)
    inputs = random_inputs_of_any_choice(case, fresh_seed)
    expected = forward(library, inputs, case.config, sm)
    for _ in range(20):
        assert torch.equal(forward(library, inputs, case.config, sm), expected)


@pytest.mark.parametrize("case", [SMALL, SMOOTHED], ids=["plain", "smoothed"])
def test_heads_in_groups_give_the_same_bits(case, sm, library, fresh_seed):
    inputs = random_inputs(case, fresh_seed)
    whole = library.workspace_bytes(to_gpu(inputs), case.config)
    output = forward(library, inputs, case.config, sm, max_workspace=whole // 2)
    assert torch.equal(output, forward(library, inputs, case.config, sm))


@pytest.mark.parametrize("name", ["dynamic_blocks", "corrected_heads", "fine_mask"])
@pytest.mark.parametrize("value", [-(2**31), 2**31 - 1])
def test_values_out_of_range_do_no_harm(name, value, sm, library, fresh_seed):
    inputs = random_inputs(SMALL, fresh_seed)
    poisoned = inputs._replace(**{name: torch.full_like(getattr(inputs, name), value)})
    assert forward(library, poisoned, SMALL.config, sm).shape == inputs.query.shape
    result = compare(forward(library, inputs, SMALL.config, sm), inputs, SMALL.config)
    assert result.ok, result


@pytest.mark.parametrize("case", [SMALL, SMOOTHED], ids=["plain", "smoothed"])
def test_a_captured_call_is_replayed_on_other_inputs(case, library, fresh_seed):
    """Counters that kernels leave behind must be where the next call expects them."""
    first, second = (random_inputs(case, fresh_seed + i) for i in range(2))
    expected = [forward(library, inputs, case.config) for inputs in (first, second)]
    placed = to_gpu(first)
    output = torch.empty_like(placed.query)
    size = library.workspace_bytes(placed, case.config)
    workspace = torch.empty(size, dtype=torch.uint8, device="cuda")
    assert workspace.data_ptr() % WORKSPACE_ALIGNMENT == 0
    call = attention_call(placed, case.config, output)
    launch = launch_on(placed.query.device)
    library.forward_raw(call, launch, workspace.data_ptr(), size)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        library.forward_raw(call, launch_on(placed.query.device), workspace.data_ptr(), size)
    for inputs, wanted in zip((first, second, first), [*expected, expected[0]], strict=True):
        for name, target in placed.named_tensors().items():
            target.copy_(inputs.named_tensors()[name])
        output.fill_(math.nan)
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(output.cpu(), wanted)
