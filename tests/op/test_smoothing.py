"""Promises of smoothed 4-bit query x key whose results are known without an oracle."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from paro_trt.errors import ArgumentError
from paro_trt.op.api import paro_attention
from paro_trt.op.quantization import Quantized, quantize_keys_apart
from paro_trt.op.reference import paro_attention_reference
from paro_trt.op.smoothing import (
    QueryRows,
    mean_in_type,
    rotate,
    smooth_keys,
    smooth_query,
    smoothed_products,
)
from paro_trt.op.spec import AttentionConfig
from paro_trt.op.validate import validate
from tests.support.cases import OpCase, random_inputs

SMOOTHED = AttentionConfig(block_q=64, block_k=64, qk_bits=4, smoothing=True, pool_dropped=True)
CASE = OpCase("smoothed", 331, heads=4, kv_heads=2, config=SMOOTHED)


def relative(actual, expected):
    return float((actual - expected).norm() / expected.norm())


def unquantized(inputs, config):
    plain = replace(config, qk_bits=16, pv_bits=16, smoothing=False)
    return paro_attention_reference(inputs._replace(rotation=None), plain, exact=True)


@pytest.mark.parametrize("channels", [2, 64, 128])
def test_rotation_is_the_hadamard_matrix_and_keeps_lengths(channels, fresh_seed):
    generator = torch.Generator().manual_seed(fresh_seed)
    x = torch.randn(5, channels, generator=generator)
    signs = torch.randint(0, 2, (channels,), generator=generator) * 2 - 1
    matrix = torch.ones(1, 1)
    while len(matrix) < channels:
        matrix = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), matrix)
    rotated = rotate(x, signs)
    torch.testing.assert_close(rotated, (x * signs) @ matrix / channels**0.5)
    torch.testing.assert_close(rotated.norm(dim=1), x.norm(dim=1))
    assert rotate(x, None) is x


@pytest.mark.parametrize("rotated", [False, True])
def test_without_quantization_the_three_products_are_one(rotated, fresh_seed):
    generator = torch.Generator().manual_seed(fresh_seed)
    query = torch.randn(40, 64, generator=generator) + 3
    key = torch.randn(3, 64, 64, generator=generator) * 2 - 1
    exists = torch.ones(3, 64, dtype=torch.bool)
    exists[2, 50:] = False
    key[~exists] = 0
    signs = torch.randint(0, 2, (64,), generator=generator) * 2 - 1 if rotated else None
    q, k = rotate(query, signs), rotate(key, signs)
    counts = exists.sum(1)
    means = k.sum(1) / counts[:, None]
    unchanged = Quantized(means[:, None], torch.ones(3, 1, 1))
    keys, smoothed = smooth_keys(k, exists, means, unchanged, 16, 16)
    rows = smooth_query(q, mean_in_type(q.mean(0), torch.bfloat16), 16, 16)
    double = torch.float64
    products = smoothed_products(rows.to(double), keys.to(double), smoothed.to(double), 0.5)
    expected = 0.5 * torch.einsum("rd,nkd->rnk", query.double(), key.double())
    torch.testing.assert_close(products[:, exists], expected[:, exists], rtol=1e-5, atol=1e-4)
    # A mean query has no residual: its products are whole without it.
    mean = QueryRows(Quantized(q[:1], torch.ones(1, 1))).to(double)
    whole = smoothed_products(mean, keys.to(double), smoothed.to(double), 0.5)
    torch.testing.assert_close(whole[:, exists], expected[:1, exists], rtol=1e-5, atol=1e-4)


def test_smoothing_lowers_the_error_of_four_bits(fresh_seed):
    inputs = random_inputs(CASE, fresh_seed)
    expected = unquantized(inputs, SMOOTHED)
    plain = replace(SMOOTHED, smoothing=False)
    before = paro_attention_reference(inputs._replace(rotation=None), plain, exact=True)
    after = paro_attention_reference(inputs, SMOOTHED, exact=True)
    assert relative(after, expected) < 0.8 * relative(before, expected)


def test_keys_that_are_their_block_mean_keep_eight_bits(fresh_seed):
    # With nothing left of the keys, 4 bits carry nothing.
    inputs = random_inputs(replace(CASE, heads=1, kv_heads=1), fresh_seed)
    order = inputs.token_order[int(inputs.head_order[0])].long()
    key = inputs.key.clone()
    for start in range(0, len(order), 64):
        block = order[start : start + 64]
        key[:, block] = key[:, block].mean(dim=1, keepdim=True)
    inputs = inputs._replace(key=key)
    eight = replace(SMOOTHED, qk_bits=8, smoothing=False)
    with_eight = paro_attention_reference(inputs._replace(rotation=None), eight, exact=True)
    expected = unquantized(inputs, SMOOTHED)
    error = relative(paro_attention_reference(inputs, SMOOTHED, exact=True), expected)
    assert error < 2 * relative(with_eight, expected) + 1e-3


def test_an_outlier_channel_of_keys_or_queries_costs_nothing(fresh_seed):
    # The same in all tokens, it is in the means and not in what 4 bits carry.
    inputs = random_inputs(replace(CASE, heads=1, kv_heads=1), fresh_seed)
    inputs = inputs._replace(rotation=torch.zeros_like(inputs.rotation))
    expected = relative(
        paro_attention_reference(inputs, SMOOTHED, exact=True), unquantized(inputs, SMOOTHED)
    )
    for name in ("query", "key"):
        moved = getattr(inputs, name).clone()
        moved[..., 3] += 20 * moved[..., 3].abs().max()
        other = inputs._replace(**{name: moved})
        error = relative(
            paro_attention_reference(other, SMOOTHED, exact=True), unquantized(other, SMOOTHED)
        )
        assert error < 2 * expected


def test_scales_of_keys_have_two_bytes_and_codes_stay_within_levels(fresh_seed):
    x = torch.randn(4, 64, 64, generator=torch.Generator().manual_seed(fresh_seed))
    x[0, 0], x[0, 1], x[0, 2, 5] = 0.0, 1e-35, float("inf")
    codes, scale = quantize_keys_apart(x, 4)
    assert torch.equal(scale[1:], scale[1:].bfloat16().float())
    assert codes.abs().max() == 7
    assert (codes * scale - x)[1:].abs().max() <= 0.51 * scale[1:].max()
    assert codes[0, :3].abs().max() == 0
    assert scale[0, :2].abs().max() == 0
    assert scale[0, 2].isnan().all()


def test_a_row_that_is_not_finite_makes_its_query_block_nan_and_nothing_else(fresh_seed):
    inputs = random_inputs(replace(CASE, heads=1, kv_heads=1), fresh_seed)
    order = inputs.token_order[int(inputs.head_order[0])].long()
    query = inputs.query.clone()
    query[0, order[70], 0, 3] = float("nan")
    output = paro_attention_reference(inputs._replace(query=query), SMOOTHED)[0, order, 0]
    assert output[64:128].isnan().all()
    assert output[:64].isfinite().all()
    assert output[128:].isfinite().all()


def test_means_beyond_the_range_of_the_type_stay_finite(fresh_seed):
    case = replace(CASE, heads=1, kv_heads=1, dtype=torch.float16)
    inputs = random_inputs(case, fresh_seed)
    query = torch.full_like(inputs.query, torch.finfo(torch.float16).max)
    affine = inputs.channel_affine.clone()
    affine[1] = 2.0
    key = inputs.key * 1e-4
    output = paro_attention_reference(
        inputs._replace(query=query, key=key, channel_affine=affine), SMOOTHED
    )
    assert output.isfinite().all()


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"qk_bits": 8}, "smoothing"),
        ({"smoothing": 2}, "smoothing"),
        ({"smoothing": False}, "rotation"),
    ],
)
def test_what_smoothing_needs_is_refused_by_name(change, name, fresh_seed):
    inputs = random_inputs(CASE, fresh_seed)
    with pytest.raises(ArgumentError, match=name):
        validate(inputs, replace(SMOOTHED, **change))


def test_other_head_dimensions_are_refused(fresh_seed):
    inputs = random_inputs(replace(CASE, head_dim=96), fresh_seed)
    with pytest.raises(ArgumentError, match="power of two"):
        validate(inputs, SMOOTHED)


def test_the_public_call_is_smoothed_where_it_has_a_rotation(fresh_seed):
    inputs = random_inputs(CASE, fresh_seed)
    output = paro_attention(*inputs, **SMOOTHED.keywords())
    assert torch.equal(output, paro_attention_reference(inputs, SMOOTHED))
    without = paro_attention(*inputs._replace(rotation=None), **SMOOTHED.keywords())
    assert not torch.equal(output, without)
