"""What correction and run-time blocks must show on held-out captures, and what they replace."""

import math

import numpy as np
import pytest
import torch

from paro_trt.calibration.inputs import LayerInputs
from paro_trt.calibration.orders import CandidateOrder
from paro_trt.calibration.passes import layer_scores, mask_contribution
from paro_trt.calibration.select_mask import Allocation, forced_blocks
from paro_trt.calibration.select_mix import select_mixes
from paro_trt.calibration.settings import CalibrationSettings
from paro_trt.calibration.trials import Alternative, trial_contribution, with_features
from paro_trt.families.base import AttentionSite
from paro_trt.plan import TextLayout

TOKENS, HEADS, CHANNELS, BLOCK = 1024, 2, 16, 64
SETTINGS = CalibrationSettings(
    density=None, cost=0.3, block_q=64, bins=2, error_query_blocks=16, qk_bits=16, pv_bits=16
)
FORCED = forced_blocks(TOKENS, TextLayout(), SETTINGS.tiling)
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


def keys(exact, fine) -> int:
    return int(BLOCK * exact.sum() + 4 * fine.sum() + (~exact & ~fine).sum())


def test_run_time_blocks_replace_blocks_of_equal_cost(scored):
    scores, masks = scored
    number, mix = Alternative(scores, masks, FORCED, BLOCK).blocks(1, 0)
    exact, fine = masks.mask[1, 0], masks.fine[1, 0]
    assert number == max(1, round(0.1 * exact.sum() / len(exact)))
    before, after = keys(exact, fine), keys(*mix) + number * BLOCK * len(exact)
    assert before - BLOCK < after <= before
    assert mix.exact[FORCED].all()


def test_no_run_time_blocks_where_only_forced_ones_are_exact(scored):
    scores, _ = scored
    (least,) = select_mixes([scores], FORCED, 0.01, TOKENS, BLOCK, Allocation.HEAD)
    assert Alternative(scores, least, FORCED, BLOCK).blocks(0, 0) is None


def test_run_time_blocks_help_where_attention_went_elsewhere(scored):
    """Head 0 sees the capture that its blocks were chosen by, head 1 another."""
    scores, masks = scored
    alternative = Alternative(scores, masks, FORCED, BLOCK)
    same, other = smooth_inputs(0), smooth_inputs(1)
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
    for mask_bin, head in np.ndindex(2, HEADS):
        spent = keys(chosen.mask[mask_bin, head], chosen.fine[mask_bin, head])
        spent += int(chosen.dynamic_blocks[mask_bin, head]) * BLOCK * len(FORCED)
        assert spent <= keys(masks.mask[mask_bin, head], masks.fine[mask_bin, head])


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
        ((1.0, 0.9, 1.0, 1.0), [1, 1], None),
        ((1.0, [[0.5, 1.2], [1.2, 1.2]], 1.0, [[0.5, 1.2], [1.2, 1.2]]), [1, 0], None),
        ((1.0, 1.5, [[0.9, 1.0], [1.1, 0.7]], 1.5), None, [[1, 0], [0, 1]]),
        # Corrected, and in the first bin of head 0 alone blocks of the run time on top.
        ((1.0, 0.8, 0.9, [[0.6, 0.8], [0.9, 0.8]]), [1, 1], [[1, 0], [0, 0]]),
    ],
)
def test_only_what_helps_is_used(scored, errors, flags, used):
    scores, masks = scored
    alternative = Alternative(scores, masks, FORCED, BLOCK)
    errors = (np.array(error) for error in errors)
    chosen = with_features(scores, masks, alternative, measured(*errors))
    found = None if chosen.corrected_heads is None else chosen.corrected_heads.tolist()
    assert found == flags
    found = None if chosen.dynamic_blocks is None else (chosen.dynamic_blocks > 0).tolist()
    assert found == (None if used is None else [[bool(x) for x in row] for row in used])
    if used is None:
        assert np.array_equal(chosen.mask, masks.mask)


def test_nothing_held_out_changes_nothing(scored):
    scores, masks = scored
    alternative = Alternative(scores, masks, FORCED, BLOCK)
    assert with_features(scores, masks, alternative, {}) is masks
