"""The reference makes no NaN of valid input, whatever its values."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from paro_trt.op.reference import paro_attention_reference
from paro_trt.op.spec import AttentionConfig
from paro_trt.op.validate import validate
from tests.support.stress import STRESS_CASE, STRESSES, problems

PLAIN = STRESS_CASE.config
SMOOTHED = replace(PLAIN, qk_bits=4, pv_bits=8, smoothing=True)
CONFIGS = {
    "qk16-pv16": PLAIN,
    "qk8-pv8": replace(PLAIN, qk_bits=8, pv_bits=8),
    "qk4-pv4": replace(PLAIN, qk_bits=4, pv_bits=4),
    "smoothed": SMOOTHED,
    "smoothed-all": replace(
        SMOOTHED, pv_bits=4, fine_summaries=True, mean_correction=True, routing=True
    ),
}


@pytest.mark.parametrize("stress", STRESSES, ids=lambda stress: stress.name)
def test_no_nan_of_valid_input(stress, fresh_seed):
    for name in ("qk8-pv8", "smoothed"):
        _check(stress, CONFIGS[name], torch.float16, fresh_seed)


@pytest.mark.long
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
@pytest.mark.parametrize("stress", STRESSES, ids=lambda stress: stress.name)
def test_no_nan_in_any_mode(stress, config, fresh_seed):
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        for exact in (False, True):
            _check(stress, config, dtype, fresh_seed, exact)


def test_a_stressed_output_with_a_nan_or_a_wrong_size_is_noticed(fresh_seed):
    inputs = STRESSES[0].inputs(STRESS_CASE, fresh_seed)
    output = paro_attention_reference(inputs, PLAIN)
    assert not problems(output, inputs)
    assert problems(output * 100, inputs)
    output[0, 3, 1, 5] = float("nan")
    assert problems(output, inputs)


def _check(
    stress, config: AttentionConfig, dtype: torch.dtype, seed: int, exact: bool = False
) -> None:
    inputs = stress.inputs(replace(STRESS_CASE, config=config, dtype=dtype), seed)
    assert all(bool(x.isfinite().all()) for x in inputs[:3])
    validate(inputs, config)
    assert not problems(paro_attention_reference(inputs, config, exact=exact), inputs)
