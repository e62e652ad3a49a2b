"""Which heads gain from correction and from blocks chosen at run time, on captures that no block
was chosen by, at equal cost.

Each head is tried alone: with its blocks as they are, and with a tenth of its exact blocks given
up for as many that each query block chooses at run time; both with and without correction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..op.spec import block_count
from .inputs import LayerInputs
from .op_error import HeadExtras, PlannedHead, attended_rows, dense_rows, identity_affine
from .passes import attention_config
from .select_mask import LayerMasks, LayerScores, describe_masks
from .select_mix import BlockMix, best_mix
from .settings import CalibrationSettings
from .statistics import sampled_query_blocks
from .work import Contribution

DYNAMIC_SHARE = 0.1
"""Of a head's exact blocks, tried as blocks chosen at run time."""

LEAST_GAIN = 0.02
"""Of the squared error that a feature must take away on the held-out captures to be used: less is
noise, and neither correction nor routing is free in time."""

_ERRORS, _ENERGY = "errors", "energy"


class Alternative:
    """A head in one bin with a tenth of its exact blocks chosen at run time, at the same cost.

    Args:
        scores: of the layer.
        masks: of the layer, without dynamic blocks.
        forced: bool [NQ, NK], blocks that are exact in any case.
        block_k: tokens in a key block.
    """

    def __init__(
        self, scores: LayerScores, masks: LayerMasks, forced: NDArray[np.bool_], block_k: int
    ) -> None:
        self._scores, self._masks, self._forced, self._block_k = scores, masks, forced, block_k

    def blocks(self, mask_bin: int, head: int) -> tuple[int, BlockMix] | None:
        """How many blocks a query block chooses, and the static ones that are left; None where
        the blocks that are exact in any case leave no room."""
        exact = self._masks.mask[mask_bin, head]
        number = max(1, round(DYNAMIC_SHARE * float(exact.sum()) / len(exact)))
        given_up = number * len(exact) * self._block_k
        budget = current_mix(self._masks, mask_bin, head).keys(self._block_k) - given_up
        least = BlockMix(self._forced, np.zeros_like(self._forced)).keys(self._block_k)
        if budget < least:
            return None
        error = self._scores.error[mask_bin, head]
        fine_error = self._scores.fine_error
        fine = error if fine_error is None else fine_error[mask_bin, head]
        return number, best_mix(error, fine, self._forced, budget, self._block_k)


def current_mix(masks: LayerMasks, mask_bin: int, head: int) -> BlockMix:
    """The blocks of one head in one bin."""
    exact = masks.mask[mask_bin, head]
    fine = np.zeros_like(exact) if masks.fine is None else masks.fine[mask_bin, head]
    return BlockMix(exact, fine)


def trial_contribution(
    inputs: LayerInputs,
    settings: CalibrationSettings,
    orders: Tensor,
    masks: LayerMasks,
    alternative: Alternative,
    mask_bin: int,
) -> Contribution:
    """Squared errors of every head of a layer, unquantized, in one held-out capture.

    Args:
        inputs: of the capture.
        settings: of the calibration.
        orders: int64 [H, S].
        masks: of the layer, without version 2's other features.
        alternative: the heads with blocks chosen at run time.
        mask_bin: the bin of the capture.

    Returns:
        sums "errors" [T, H, 2, 2], by (dynamic, corrected), and "energy" [T, H]; zero outside the
        bin.
    """
    device, site = inputs.query.device, inputs.site
    config = replace(attention_config(settings), qk_bits=16, pv_bits=16, smoothing=False)
    existing = block_count(inputs.length, settings.block_q)
    blocks = sampled_query_blocks(existing, settings.error_query_blocks)
    identity = identity_affine(site.head_dim, device)
    errors = np.zeros((settings.bins, site.heads, 2, 2))
    energy = np.zeros((settings.bins, site.heads))
    for head in range(site.heads):
        of_head, order = inputs.head(head), orders[head].to(device)
        dense = dense_rows(of_head, order, settings.block_q, blocks)
        energy[mask_bin, head] = _squared(dense)
        tried = (0, current_mix(masks, mask_bin, head)), alternative.blocks(mask_bin, head)
        for dynamic, found in enumerate(tried):
            if found is None:
                errors[mask_bin, head, dynamic] = errors[mask_bin, head, 0]
                continue
            number, mix = found
            exact, fine = (torch.from_numpy(plane).to(device) for plane in mix)
            for corrected in (False, True):
                extras = HeadExtras(fine, number, corrected)
                planned = PlannedHead(order, exact, identity, *extras)
                rows = attended_rows(of_head, planned, config, blocks)
                errors[mask_bin, head, dynamic, int(corrected)] = _squared(rows - dense)
    return Contribution({_ERRORS: errors, _ENERGY: energy})


def with_features(
    scores: LayerScores,
    masks: LayerMasks,
    alternative: Alternative,
    measured: Mapping[str, NDArray[Any]],
) -> LayerMasks:
    """The masks with what helped on the held-out captures: for each head a flag of correction, for
    each head and bin the blocks chosen at run time.

    Args:
        scores: of the layer.
        masks: of the layer, without version 2's other features.
        alternative: the heads with blocks chosen at run time.
        measured: the summed `trial_contribution`s; empty without held-out captures.
    """
    if not measured:
        return masks
    errors = measured[_ERRORS]
    plain = errors[:, :, 0, 0]
    # A head's flag serves all bins: the best of each bin without and with it are compared.
    dynamic_pays = errors[:, :, 1] < (1.0 - LEAST_GAIN) * errors[:, :, 0]
    best = np.where(dynamic_pays, errors[:, :, 1], errors[:, :, 0]).sum(axis=0)
    corrected = best[:, 1] < best[:, 0] - LEAST_GAIN * plain.sum(axis=0)
    chosen = np.where(corrected, dynamic_pays[..., 1], dynamic_pays[..., 0])
    exact, dynamic = masks.mask.copy(), np.zeros(chosen.shape, dtype=np.int32)
    fine = np.zeros_like(exact) if masks.fine is None else masks.fine.copy()
    for mask_bin, head in np.argwhere(chosen):
        found = alternative.blocks(int(mask_bin), int(head))
        assert found is not None  # its errors are those without, so it was not chosen
        dynamic[mask_bin, head], (exact[mask_bin, head], fine[mask_bin, head]) = found
    return describe_masks(scores, exact, fine)._replace(
        dynamic_blocks=dynamic if dynamic.any() else None,
        corrected_heads=corrected.astype(np.int32) if corrected.any() else None,
    )


def _squared(rows: Tensor) -> float:
    return float(rows.double().square().sum())
