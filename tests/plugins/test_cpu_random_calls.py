"""The CPU backend on calls of random shape, mask, precision and padding, against float64."""

from __future__ import annotations

import random

import pytest
import torch

from paro_trt import native
from paro_trt.op.spec import AttentionConfig
from paro_trt.testing.cases import OpCase, random_inputs
from paro_trt.testing.numerics import compare
from tests.plugins.cpu_instruction_sets import instruction_set, of_this_processor

CALLS = 24


def random_case(rng: random.Random) -> OpCase:
    tokens, batch, kv_heads = rng.randint(1, 520), rng.randint(1, 2), rng.randint(1, 2)
    config = AttentionConfig(
        block_q=rng.choice((64, 128)),
        block_k=rng.choice((64, 128)),
        qk_bits=rng.choice((16, 8, 4)),
        pv_bits=rng.choice((16, 8, 4)),
        pool_dropped=rng.random() < 0.5,
        scale=rng.choice((0.0, 0.05, 0.4)),
    )
    return OpCase(
        "random",
        tokens,
        batch=batch,
        heads=kv_heads * rng.randint(1, 3),
        kv_heads=kv_heads,
        head_dim=rng.choice((64, 128)),
        bins=rng.randint(1, 3),
        density=rng.random(),
        key_length=tuple(rng.randint(0, tokens) for _ in range(batch)),
        empty_rows=rng.random() < 0.2,
        dtype=rng.choice((torch.float32, torch.float16, torch.bfloat16)),
        config=config,
    )


@pytest.mark.parametrize("call", range(CALLS))
def test_equals_the_reference(call, fresh_seed):
    case = random_case(random.Random(fresh_seed + call))
    inputs = random_inputs(case, fresh_seed + call)
    library = native.load_library(native.library_path("cpu"))
    for isa in of_this_processor():
        with instruction_set(isa):
            output = library.forward(inputs, case.config, 2)
        outcome = compare(output, inputs, case.config)
        assert outcome.ok, (isa, case, outcome)
