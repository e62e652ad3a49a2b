"""The function bodies of version 2 of the op against the reference."""

from __future__ import annotations

import pytest
import torch

from paro_trt.onnx_export import Body
from paro_trt.op.spec import AttentionConfig, AttentionInputs
from tests.support.cases import VERSION_2_CASES, OpCase, at_bits, random_inputs

from .single_node import (
    assert_matches_reference,
    run_with_onnxruntime,
)

BODIES = (Body.SPARSE, Body.DENSE)
RUNNABLE = tuple(case for case in VERSION_2_CASES if case.dtype != torch.bfloat16)
BY_NAME = {case.name: case for case in VERSION_2_CASES}


def assert_equals_reference(
    body: Body, inputs: AttentionInputs, config: AttentionConfig, opset: int = 18
) -> None:
    actual = run_with_onnxruntime(body, inputs, config, opset)
    assert_matches_reference(actual, inputs, config)


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("case", RUNNABLE, ids=lambda case: case.name)
@pytest.mark.parametrize("bits", [(16, 16), (8, 8), (8, 4)], ids=str)
def test_every_case(body: Body, case: OpCase, bits: tuple[int, int], fresh_seed: int) -> None:
    case = at_bits(case, *bits)
    assert_equals_reference(body, random_inputs(case, fresh_seed), case.config)
