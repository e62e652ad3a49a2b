"""What version 2 of the op promises, on calls whose result is known without computing it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from paro_trt.errors import ArgumentError
from paro_trt.op.api import paro_attention
from paro_trt.op.reference import paro_attention_reference
from paro_trt.op.routing import estimated_errors, route_head
from paro_trt.op.spec import AttentionConfig, AttentionInputs
from paro_trt.op.validate import validate
from tests.support.cases import OpCase, random_inputs

VERSION_1 = AttentionConfig(block_q=64, block_k=64, pool_dropped=True)
FINE = replace(VERSION_1, fine_summaries=True)
CORRECTED = replace(VERSION_1, mean_correction=True)
ROUTED = replace(VERSION_1, routing=True)
EVERY_BLOCK = (1 << 6) - 1
"""The bits of the six key blocks of 331 tokens."""


def inputs_of(config: AttentionConfig, seed: int, **changes: object) -> AttentionInputs:
    case = OpCase("version-2", 331, heads=4, kv_heads=2, density=0.2, config=config)
    inputs = random_inputs(replace(case, **changes), seed)
    if config.mean_correction:
        inputs = inputs._replace(corrected_heads=torch.ones(4, dtype=torch.int32))
    return inputs


def version_1(inputs: AttentionInputs, **changes: torch.Tensor) -> AttentionInputs:
    """The same call without what version 2 adds."""
    added = dict.fromkeys(("fine_mask", "corrected_heads", "dynamic_blocks"))
    return inputs._replace(**added)._replace(**changes)


def exact(inputs: AttentionInputs, config: AttentionConfig) -> torch.Tensor:
    return paro_attention_reference(inputs, config, exact=True)


def dense(inputs: AttentionInputs) -> torch.Tensor:
    full = torch.full_like(inputs.block_mask, EVERY_BLOCK)
    return exact(version_1(inputs, block_mask=full), VERSION_1)


def same_rows_in_a_run(inputs: AttentionInputs, side: str, run: int) -> AttentionInputs:
    """Every run of tokens of a head's order gets the value of its first token."""
    x = getattr(inputs, side).clone()
    heads = inputs.query.shape[2] // x.shape[2]
    for head in range(x.shape[2]):
        order = inputs.token_order[int(inputs.head_order[head * heads])].long()
        first = torch.arange(len(order)) // run * run
        x[:, order, head] = x[:, order[first], head]
    return inputs._replace(**{side: x})


def test_unused_features_change_nothing(fresh_seed):
    inputs = inputs_of(replace(FINE, mean_correction=True, routing=True), fresh_seed)
    zeros = {name: torch.zeros_like(getattr(inputs, name))
             for name in ("fine_mask", "corrected_heads", "dynamic_blocks")}  # fmt: skip
    actual = exact(inputs._replace(**zeros), replace(FINE, mean_correction=True, routing=True))
    assert torch.equal(actual, exact(version_1(inputs), VERSION_1))


def test_a_block_in_both_planes_is_exact(fresh_seed):
    inputs = inputs_of(FINE, fresh_seed)
    both = inputs._replace(fine_mask=inputs.block_mask)
    assert torch.equal(exact(both, FINE), exact(version_1(inputs), VERSION_1))


@pytest.mark.parametrize("block_k", [64, 128])
def test_fine_summaries_are_exact_where_their_runs_do_not_vary(block_k, fresh_seed):
    config = replace(FINE, block_k=block_k)
    inputs = inputs_of(config, fresh_seed)
    for side in ("key", "value"):
        inputs = same_rows_in_a_run(inputs, side, block_k // 4)
    every = (1 << -(-331 // block_k)) - 1
    fine = inputs._replace(fine_mask=torch.full_like(inputs.block_mask, every))
    full = version_1(inputs, block_mask=torch.full_like(inputs.block_mask, every))
    expected = exact(full, replace(VERSION_1, block_k=block_k))
    torch.testing.assert_close(exact(fine, config), expected, rtol=0, atol=1e-5)
    # One summary for a block does not suffice.
    assert not torch.allclose(exact(version_1(inputs), VERSION_1), expected, rtol=0, atol=1e-2)


def test_rows_equal_to_their_mean_are_corrected_to_dense_attention(fresh_seed):
    inputs = same_rows_in_a_run(inputs_of(CORRECTED, fresh_seed), "query", 128)
    expected = dense(inputs)
    torch.testing.assert_close(exact(inputs, CORRECTED), expected, rtol=0, atol=1e-5)
    assert not torch.allclose(exact(version_1(inputs), VERSION_1), expected, rtol=0, atol=1e-2)


def test_only_flagged_heads_are_corrected(fresh_seed):
    inputs = inputs_of(CORRECTED, fresh_seed)
    inputs = inputs._replace(corrected_heads=torch.tensor([1, 0, 0, 1], dtype=torch.int32))
    changed = (exact(inputs, CORRECTED) != exact(version_1(inputs), VERSION_1)).any(dim=3)
    assert changed[..., [0, 3]].all()
    assert not changed[..., [1, 2]].any()


def test_rows_with_nothing_to_attend_are_not_corrected(fresh_seed):
    config = replace(CORRECTED, pool_dropped=False)
    inputs = inputs_of(config, fresh_seed)
    nothing = inputs._replace(block_mask=torch.zeros_like(inputs.block_mask))
    assert not exact(nothing, config).any()


def test_all_blocks_chosen_is_dense_attention(fresh_seed):
    inputs = inputs_of(ROUTED, fresh_seed)
    every = inputs._replace(dynamic_blocks=torch.full((1, 4), 6, dtype=torch.int32))
    torch.testing.assert_close(exact(every, ROUTED), dense(inputs), rtol=0, atol=1e-12)
    more = every._replace(dynamic_blocks=every.dynamic_blocks + 100)
    assert torch.equal(exact(more, ROUTED), exact(every, ROUTED))
    fewer = every._replace(dynamic_blocks=torch.full((1, 4), -1, dtype=torch.int32))
    assert torch.equal(exact(fewer, ROUTED), exact(version_1(inputs), VERSION_1))


def test_chosen_blocks_are_those_with_the_largest_errors(fresh_seed):
    query, key, value = torch.randn(3, 640, 32, generator=torch.Generator().manual_seed(fresh_seed))
    mask = torch.rand(10, 10, generator=torch.Generator().manual_seed(fresh_seed)) < 0.3
    chosen = route_head(query, key, value, mask, 2, ROUTED, torch.float64)
    errors = estimated_errors(query, key, value, ROUTED, torch.float64)
    assert not (chosen & mask).any()
    for row in range(10):
        free = (~mask[row]).sum()
        assert chosen[row].sum() == min(2, free)
        rest = errors[row][~mask[row] & ~chosen[row]]
        if len(rest):
            assert errors[row][chosen[row]].min() > rest.max()


def test_ties_go_to_the_lower_index_and_nan_counts_as_the_largest():
    zeros = torch.zeros(320, 16)
    mask = torch.zeros(5, 5, dtype=torch.bool)
    mask[:, 1] = True
    chosen = route_head(zeros, zeros, zeros, mask, 2, ROUTED, torch.float32)
    assert chosen.tolist() == [[True, False, True, False, False]] * 5
    value = zeros.clone()
    value[4 * 64] = math.nan  # everything that the block enters is NaN: still two, the lowest
    chosen = route_head(zeros, zeros, value, mask, 2, ROUTED, torch.float32)
    assert chosen.sum(dim=1).tolist() == [2] * 5


@pytest.mark.parametrize(
    ("name", "config", "match"),
    [
        ("fine_mask", FINE, "fine_mask: expected a tensor if and only if fine_summaries is 1"),
        ("corrected_heads", CORRECTED, "corrected_heads: expected a tensor if and only if"),
        ("dynamic_blocks", ROUTED, "dynamic_blocks: expected a tensor if and only if routing is 1"),
    ],
)
def test_a_feature_without_its_tensor_is_refused(name, config, match, fresh_seed):
    inputs = inputs_of(config, fresh_seed)
    with pytest.raises(ArgumentError, match=match):
        validate(inputs._replace(**{name: None}), config)
    with pytest.raises(ArgumentError, match=match):
        validate(inputs, VERSION_1)


@pytest.mark.parametrize(
    ("config", "name", "tensor", "match"),
    [
        (FINE, "fine_mask", torch.zeros(1, 4, 6, 2, dtype=torch.int32), r"fine_mask: expected sha"),
        (FINE, "fine_mask", torch.full((1, 4, 6, 1), 64, dtype=torch.int32), "at or past key bloc"),
        (CORRECTED, "corrected_heads", torch.full((4,), 2, dtype=torch.int32), "values in 0..1, g"),
        (CORRECTED, "corrected_heads", torch.zeros(4), "corrected_heads: expected int32"),
        (ROUTED, "dynamic_blocks", torch.full((1, 4), 7, dtype=torch.int32), "values in 0..6, got"),
        (ROUTED, "dynamic_blocks", torch.full((1, 4), -1, dtype=torch.int32), "values in 0..6, go"),
        (ROUTED, "dynamic_blocks", torch.zeros(4, dtype=torch.int32), "expected 2 dimensions"),
    ],
)
def test_bad_tensors_are_refused(config, name, tensor, match, fresh_seed):
    inputs = inputs_of(config, fresh_seed)._replace(**{name: tensor})
    with pytest.raises(ArgumentError, match=match):
        validate(inputs, config)


def test_fine_summaries_need_pooling(fresh_seed):
    inputs = inputs_of(FINE, fresh_seed)
    with pytest.raises(ArgumentError, match="fine_summaries: expected 0 where pool_dropped is 0"):
        validate(inputs, replace(FINE, pool_dropped=False))


def test_public_call_takes_the_tensors(fresh_seed):
    config = replace(FINE, mean_correction=True, routing=True)
    inputs = inputs_of(config, fresh_seed)
    expected = paro_attention_reference(inputs, config)
    assert torch.equal(paro_attention(*inputs, **config.keywords()), expected)
    words = (0.0, 64, 64, 16, 16, 1, "reference")
    assert torch.equal(torch.ops.paro.attention(*inputs, *words), expected)
