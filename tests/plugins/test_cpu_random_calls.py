"""The CPU backend on calls of random shape, mask, precision and padding, against float64."""

from __future__ import annotations

import random

import pytest
import torch

from paro_trt.op import native
from tests.plugins.cpu_instruction_sets import assert_each_isa_is_right
from tests.support.cases import random_inputs

from .random_calls import random_case, with_smoothing, with_version_2

CALLS = 24
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@pytest.mark.parametrize("call", range(CALLS))
def test_equals_the_reference(call, fresh_seed):
    rng = random.Random(fresh_seed + call)
    case = random_case(rng, DTYPES, most_tokens=520)
    if call % 2:
        case = with_smoothing(with_version_2(case, rng), rng)
    inputs = random_inputs(case, fresh_seed + call)
    library = native.load_library(native.library_path("cpu"))
    assert_each_isa_is_right(library, inputs, case.config)
