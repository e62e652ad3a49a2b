"""The tolerance helper must accept rounding and detect the errors that a kernel could make."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from paro_trt.op import reference
from paro_trt.op.reference import paro_attention_reference
from tests.support.cases import OpCase, random_inputs
from tests.support.numerics import compare

CASE = OpCase("numerics", 330).with_bits(8, 8, True)


def one_wrong_row(x: torch.Tensor) -> torch.Tensor:
    x[0, 100, 1] = x[0, 101, 1]
    return x


def one_nan(x: torch.Tensor) -> torch.Tensor:
    x[0, 3, 0, 5] = math.nan
    return x


def small_bias(x: torch.Tensor) -> torch.Tensor:
    return x * 1.005


def last_token_forgotten(x: torch.Tensor) -> torch.Tensor:
    x[0, -1] = 0
    return x


@pytest.mark.parametrize("wrong", [one_wrong_row, one_nan, small_bias, last_token_forgotten])
def test_wrong_outputs_are_caught(wrong: Callable, fresh_seed):
    inputs = random_inputs(CASE, fresh_seed)
    good = paro_attention_reference(inputs, CASE.config)
    assert compare(good, inputs, CASE.config).ok
    assert not compare(wrong(good.clone()), inputs, CASE.config).ok


@pytest.mark.parametrize(
    "field", ["token_order", "block_mask", "channel_affine", "key_length", "mask_bin"]
)
def test_wrong_inputs_are_caught(field, fresh_seed):
    case = replace(CASE, bins=2)
    inputs = random_inputs(case, fresh_seed)
    damaged = {
        "token_order": inputs.token_order.roll(1, dims=1),
        "block_mask": inputs.block_mask ^ 2,
        "channel_affine": inputs.channel_affine * 1.1,
        "key_length": inputs.key_length - 1,
        "mask_bin": inputs.mask_bin + 1,
    }[field]
    wrong = paro_attention_reference(inputs._replace(**{field: damaged}), case.config)
    assert not compare(wrong, inputs, case.config).ok


@pytest.mark.parametrize("bits", [8, 4])
def test_probability_against_the_row_maximum_is_caught(bits, fresh_seed, monkeypatch):
    """Only blocks that matter less show it, so the logits are spread out first."""
    case = OpCase("row-maximum", 1000, density=1.0).with_bits(16, bits, False)
    inputs = random_inputs(case, fresh_seed)
    inputs = inputs._replace(query=inputs.query * 2)

    def against_row_maximum(logits: torch.Tensor, _: torch.Tensor) -> reference.BlockSoftmax:
        top = logits.amax(dim=(1, 2), keepdim=True)
        return reference.BlockSoftmax(torch.exp2(logits - top), torch.ones(logits.shape[:2]))

    with monkeypatch.context() as patched:
        patched.setattr(reference, "block_softmax", against_row_maximum)
        wrong = paro_attention_reference(inputs, case.config)
    assert not compare(wrong, inputs, case.config).ok


def test_other_rounding_passes(fresh_seed, monkeypatch):
    """An exponential with an error of 2 ulp, as GPUs have, is accepted."""
    inputs = random_inputs(CASE, fresh_seed)
    exact_exp2 = torch.exp2
    noise = torch.Generator().manual_seed(fresh_seed)

    def rough_exp2(x: torch.Tensor) -> torch.Tensor:
        error = (torch.rand(x.shape, generator=noise) - 0.5) * 2**-21
        return exact_exp2(x) * (1 + error)

    with monkeypatch.context() as patched:
        patched.setattr(torch, "exp2", rough_exp2)
        rough = paro_attention_reference(inputs, CASE.config)
    assert compare(rough, inputs, CASE.config).ok
