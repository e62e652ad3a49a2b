"""The CPU backend on calls of random shape, mask, precision and padding, against float64."""

from __future__ import annotations

import random

import pytest
import torch

from paro_trt.op import native
from tests.plugins.cpu_instruction_sets import instruction_set, of_this_processor
from tests.support.cases import random_inputs
from tests.support.numerics import compare

from .random_calls import random_case

CALLS = 24
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@pytest.mark.parametrize("call", range(CALLS))
def test_equals_the_reference(call, fresh_seed):
    case = random_case(random.Random(fresh_seed + call), DTYPES, most_tokens=520)
    inputs = random_inputs(case, fresh_seed + call)
    library = native.load_library(native.library_path("cpu"))
    for isa in of_this_processor():
        with instruction_set(isa):
            output = library.forward(inputs, case.config, 2)
        outcome = compare(output, inputs, case.config)
        assert outcome.ok, (isa, case, outcome)
