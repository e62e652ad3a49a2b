"""What correction and run-time blocks must show on held-out captures, and what they replace."""

import math

import numpy as np
import pytest
import torch

from paro_trt.calibration.inputs import LayerInputs
from paro_trt.calibration.orders import CandidateOrder
from paro_trt.calibration.passes import layer_scores, mask_contribution
from paro_trt.calibration.select_mask import Allocation, forced_blocks
from paro_trt.calibration.select_mix import BlockMix, select_mixes
from paro_trt.calibration.settings import CalibrationSettings
from paro_trt.calibration.trials import Alternative, trial_contribution, with_features
from paro_trt.families.base import AttentionSite
from paro_trt.plan import BlockCounts, KeyCost, TextLayout

TOKENS, HEADS, CHANNELS, BLOCK = 1024, 2, 16, 64
SETTINGS = CalibrationSettings(
    density=None, cost=0.3, block_q=64, bins=2, error_query_blocks=16, qk_bits=16, pv_bits=16
)
FORCED = forced_blocks(TOKENS, TextLayout(), SETTINGS.tiling)
COST = KeyCost(TOKENS, BLOCK, BLOCK)
SITE = AttentionSite("attn", HEADS, HEADS, CHANNELS)


def smooth_inputs(seed: int) -> LayerInputs:
    """Neighbouring tokens are alike; each seed puts its peaks elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(3, TOKENS // 32, HEADS, CHANNELS, generator=generator)
    query, key, value = centres.repeat_interleave(32, dim=1) + 0.3 * torch.randn(
        3, TOKENS, HEADS, CHANNELS, generator=generator
    )
    return LayerInputs(SITE, 2 * query, key, value, 1 / math.sqrt(CHANNELS))


IDENTITY = (CandidateOrder("identity", np.arange(TOKENS, dtype=np.int32)),)
ORDERS = torch.arange(TOKENS).expand(HEADS, -1)


@pytest.fixture(scope="module")
def scored():
    """Scores of one capture in both bins, and the mix that they choose."""
    learned = mask_contribution(smooth_inputs(0), SETTINGS, IDENTITY, np.zeros(HEADS, np.int32))
    scores = layer_scores([learned.sums, learned.sums])
    (masks,) = select_mixes([scores], FORCED, 0.3, TOKENS, BLOCK, Allocation.HEAD)
    return scores, masks


def keys(exact, fine, number=0, corrected=False) -> float:
    """All that a head costs in one bin."""
    counts = BlockCounts(
        int(exact.sum()), int(fine.sum()), int((~exact & ~fine).sum()), number * len(exact)
    )
    return COST.met(counts, len(exact), corrected=corrected).total


def spent(mix, numbers, corrected) -> list[float]:
    """What each bin costs, all heads together."""
    return [
        sum(
            keys(mix.exact[of_bin, head], mix.fine[of_bin, head], int(numbers[of_bin, head]), flag)
            for head, flag in enumerate(corrected)
        )
        for of_bin in (0, 1)
    ]


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("dynamic", "corrected"), [(True, False), (False, True), (True, True)])
def test_features_replace_blocks_of_equal_cost(scored, dynamic, corrected, shared):
    scores, masks = scored
    payers = None if shared else np.split(np.arange(HEADS), HEADS)
    alternative = Alternative(scores, masks, FORCED, COST, payers)
    flags = np.array([corrected, False])
    routed = np.array([[dynamic, False], [False, False]])
    mix, numbers = alternative.pay(flags, routed)
    before = spent(BlockMix(masks.mask, masks.fine), np.zeros((2, HEADS)), [False] * HEADS)
    for old, new in zip(before, spent(mix, numbers, flags), strict=True):
        assert old - 3 * BLOCK < new <= old
    assert mix.exact[..., FORCED].all()
    assert not (mix.exact & mix.fine).any()
    assert (numbers > 0).tolist() == routed.tolist()
    others_pay = not np.array_equal(mix.exact[0, 1], masks.mask[0, 1])
    assert others_pay == shared


def test_run_time_blocks_are_a_tenth_of_a_head_s(scored):
    scores, masks = scored
    number, mix = Alternative(scores, masks, FORCED, COST).routed(1, 0)
    exact, fine = masks.mask[1, 0], masks.fine[1, 0]
    assert number == max(1, round(0.1 * exact.sum() / len(exact)))
    before, after = keys(exact, fine), keys(*mix) + number * BLOCK * len(exact)
    assert before - BLOCK < after <= before


def test_the_price_of_a_feature_is_what_its_keys_would_buy(scored):
    """Four corrected heads cost twice as much as two, and lose twice as much."""
    scores, masks = scored
    correction, routing = Alternative(scores, masks, FORCED, COST).prices()
    assert (correction > 0).all()
    assert (routing > 0).all()
    mix, _ = Alternative(scores, masks, FORCED, COST).pay(
        np.ones(HEADS, bool), np.zeros((2, HEADS), bool)
    )
    left = [
        np.where(exact, 0, np.where(fine, scores.fine_error, scores.error)).sum(axis=(2, 3))
        for exact, fine in ((masks.mask, masks.fine), mix)
    ]
    lost = (left[1] - left[0]).sum(axis=1)
    assert (correction * left[0]).sum(axis=1) == pytest.approx(lost, rel=0.05)


def test_what_features_cost():
    """16 query blocks of 64 rows: 8 dense mean queries and 16 of what the blocks attend; 64 means
    of 16 rows, each against 64 means of 16 tokens and 16 of blocks."""
    counts = BlockCounts(40, 30, 186, 16)
    blocks = 64 * 56 + 4 * 30 + 186
    met = COST.met(counts, 16, corrected=True)
    assert met.blocks == blocks
    # A pair of a query and a key is 1 / 64 of a key that a query block meets.
    assert met.correction * 64 == 8 * 1024 + blocks
    assert met.routing * 64 == 64 * (64 + 16)
    assert met.total == met.blocks + met.correction + met.routing
    assert COST.met(counts._replace(dynamic=0), 16) == (blocks - 16 * 64, 0, 0)


def test_no_run_time_blocks_where_only_forced_ones_are_exact(scored):
    scores, _ = scored
    (least,) = select_mixes([scores], FORCED, 0.01, TOKENS, BLOCK, Allocation.HEAD)
    alternative = Alternative(scores, least, FORCED, COST)
    assert alternative.routed(0, 0) is None
    found = trial_contribution(smooth_inputs(1), SETTINGS, ORDERS, least, alternative, mask_bin=0)
    assert np.isinf(found.sums["errors"][0, :, 1]).all()
    assert alternative.pay(np.ones(HEADS, bool), np.zeros((2, HEADS), bool)) is None
    chosen = with_features(scores, least, alternative, found.sums)
    assert chosen.dynamic_blocks is chosen.corrected_heads is None


def test_run_time_blocks_help_where_attention_went_elsewhere(scored):
    """Head 0 sees the capture that its blocks were chosen by, head 1 another."""
    scores, masks = scored
    alternative = Alternative(scores, masks, FORCED, COST)
    same, other = smooth_inputs(0), smooth_inputs(8)
    mixed = same._replace(
        query=torch.stack([same.query[:, 0], other.query[:, 1]], 1),
        key=torch.stack([same.key[:, 0], other.key[:, 1]], 1),
        value=torch.stack([same.value[:, 0], other.value[:, 1]], 1),
    )
    found = trial_contribution(mixed, SETTINGS, ORDERS, masks, alternative, mask_bin=1)
    errors, energy = found.sums["errors"], found.sums["energy"]
    assert (errors[0] == 0).all()
    assert (energy[0] == 0).all()
    assert (errors[1] > 0).all()
    assert errors[1, 1, 1, 0] < 0.95 * errors[1, 1, 0, 0]
    chosen = with_features(scores, masks, alternative, found.sums)
    assert chosen.dynamic_blocks[1, 1] > 0
    assert chosen.dynamic_blocks[0].tolist() == [0, 0]
    flags = [False] * HEADS if chosen.corrected_heads is None else chosen.corrected_heads
    used = spent(BlockMix(chosen.mask, chosen.fine), chosen.dynamic_blocks, flags)
    none = spent(BlockMix(masks.mask, masks.fine), np.zeros((2, HEADS)), [False] * HEADS)
    assert all(new <= old for new, old in zip(used, none, strict=True))


def measured(plain, corrected, dynamic, both):
    """Errors [T=2, H=2, 2, 2] from a figure or [T, H] figures each."""
    errors = np.empty((2, HEADS, 2, 2))
    errors[..., 0, 0], errors[..., 0, 1] = plain, corrected
    errors[..., 1, 0], errors[..., 1, 1] = dynamic, both
    return {"errors": errors, "energy": np.ones((2, HEADS))}


@pytest.mark.parametrize(
    ("errors", "flags", "used"),
    [
        ((1.0, 1.0, 1.0, 1.0), None, None),
        # Less than the least gain is noise.
        ((1.0, 0.99, 0.99, 0.99), None, None),
        # Less than the blocks that pay for it.
        ((1.0, 0.95, 1.0, 1.0), None, None),
        ((1.0, 1.0, 0.97, 0.97), None, None),
        ((1.0, 0.6, 1.0, 1.0), [1, 1], None),
        ((1.0, [[0.5, 1.2], [1.2, 1.2]], 1.0, [[0.5, 1.2], [1.2, 1.2]]), [1, 0], None),
        ((1.0, 1.5, [[0.9, 1.0], [1.1, 0.7]], 1.5), None, [[1, 0], [0, 1]]),
        # Corrected, and in the first bin of head 0 alone blocks of the run time on top.
        ((1.0, 0.6, 0.9, [[0.4, 0.6], [0.7, 0.6]]), [1, 1], [[1, 0], [0, 0]]),
    ],
)
def test_only_what_helps_is_used(scored, errors, flags, used):
    scores, masks = scored
    alternative = Alternative(scores, masks, FORCED, COST)
    errors = (np.array(error) for error in errors)
    chosen = with_features(scores, masks, alternative, measured(*errors))
    found = None if chosen.corrected_heads is None else chosen.corrected_heads.tolist()
    assert found == flags
    found = None if chosen.dynamic_blocks is None else (chosen.dynamic_blocks > 0).tolist()
    assert found == (None if used is None else [[bool(x) for x in row] for row in used])
    if used is None and flags is None:
        assert np.array_equal(chosen.mask, masks.mask)


def test_nothing_held_out_changes_nothing(scored):
    scores, masks = scored
    alternative = Alternative(scores, masks, FORCED, COST)
    assert with_features(scores, masks, alternative, {}) is masks


def test_what_is_chosen_never_loses_more_on_the_held_out_captures(scored):
    scores, masks = scored
    alternative = Alternative(scores, masks, FORCED, COST)
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(20):
        errors = rng.uniform(0.5, 1.5, (2, HEADS, 2, 2))
        # No room for corrected blocks in a bin: then the head is not corrected in any.
        errors[rng.integers(2), rng.integers(HEADS), :, 1] = math.inf
        chosen = with_features(scores, masks, alternative, {"errors": errors})
        for head in range(HEADS):
            flag = int(chosen.corrected_heads is not None and chosen.corrected_heads[head])
            routed = [
                int(chosen.dynamic_blocks is not None and chosen.dynamic_blocks[of_bin, head] > 0)
                for of_bin in (0, 1)
            ]
            spent = sum(errors[of_bin, head, routed[of_bin], flag] for of_bin in (0, 1))
            assert spent <= errors[:, head, 0, 0].sum()
            seen.add((flag, *routed))
    assert len(seen) > 4
