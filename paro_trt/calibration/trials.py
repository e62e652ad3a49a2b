"""Which heads gain from correction and from blocks chosen at run time, on captures that no block
was chosen by.

Each head is tried alone: with its blocks as they are, and with a tenth of its exact blocks given
up for as many that each query block chooses at run time; both with and without correction. What
the features compute themselves is paid by the heads that share a budget, whose blocks are chosen
again for what is left; a head has a feature only if it gains more than these blocks lose.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..op.spec import block_count
from ..plan import KeyCost
from .inputs import LayerInputs
from .op_error import HeadExtras, PlannedHead, attended_rows, dense_rows, identity_affine
from .passes import quantized_config
from .select_mask import LayerMasks, LayerScores, describe_masks
from .select_mix import BlockErrors, BlockMix, smooth_mix
from .settings import CalibrationSettings
from .statistics import sampled_query_blocks
from .work import Contribution

DYNAMIC_SHARE = 0.1
"""Of a head's exact blocks, tried as blocks chosen at run time."""

LEAST_GAIN = 0.02
"""Of the squared error that a feature must take away on the held-out captures to be used: less is
noise."""

_ERRORS, _ENERGY = "errors", "energy"

_Place: TypeAlias = "tuple[int, int | NDArray[np.int64]]"
_TINY = float(np.finfo(np.float64).tiny)


class Alternative:
    """Heads of a layer with features of version 2, at the cost that they have without.

    Args:
        scores: of the layer.
        masks: of the layer, without these features.
        forced: bool [NQ, NK], blocks that are exact in any case.
        cost: of heads of the layer.
        payers: int64 [G] each, the heads that share a budget, which pay together in each bin; every
            head is in one. None: all of them together.
    """

    def __init__(
        self,
        scores: LayerScores,
        masks: LayerMasks,
        forced: NDArray[np.bool_],
        cost: KeyCost,
        payers: Sequence[NDArray[np.int64]] | None = None,
    ) -> None:
        self._error = scores.error
        self._fine_error = scores.error if scores.fine_error is None else scores.fine_error
        self._current = BlockMix(
            masks.mask, np.zeros_like(masks.mask) if masks.fine is None else masks.fine
        )
        self._forced, self._cost = forced, cost
        bins, heads, self._query_blocks, _ = scores.error.shape
        sets = [np.arange(heads)] if payers is None else payers
        self._payers = [(mask_bin, of) for mask_bin in range(bins) for of in sets]

    def routed(
        self, mask_bin: int, head: int, of: BlockMix | None = None
    ) -> tuple[int, BlockMix] | None:
        """How many blocks a query block of a head chooses, and the static ones that are left of
        `of`, by default those of the masks; None where the blocks that are exact in any case leave
        no room."""
        at, block_k = (mask_bin, head), self._cost.block_k
        mix = _at(self._current, at) if of is None else of
        number = max(1, round(DYNAMIC_SHARE * float(mix.exact.sum()) / self._query_blocks))
        budget = mix.keys(block_k) - number * self._query_blocks * block_k
        if budget < self._least(1):
            return None
        return number, self._chosen(at, budget)

    def prices(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """What correction and routing of each head cost, f64 [T, H] each: the squared error of the
        blocks that their keys would pay for, as a share of that of the head's blocks.

        It is the price of a key where all who share a budget are corrected.
        """
        corrections, _ = self._feature_keys()
        left = self._left(self._current)
        prices = np.zeros((2, *left.shape))
        for at in self._payers:
            keys = _at(self._current, at).keys(self._cost.block_k)
            less = max(keys - math.ceil(corrections[at].sum()), self._least(left[at].size))
            more = self._left(self._chosen(at, less), at).sum() - left[at].sum()
            of_key = max(more, 0.0) / max(keys - less, 1)
            spent = np.stack([corrections[at], np.full_like(left[at], self._routing)])
            prices[:, at[0], at[1]] = of_key * spent / np.maximum(left[at], _TINY)
        return prices[0], prices[1]

    def pay(
        self, corrected: NDArray[np.bool_], routed: NDArray[np.bool_]
    ) -> tuple[BlockMix, NDArray[np.int32]] | None:
        """The blocks of all heads and bins where some have features, and the number that each query
        block chooses; None where there is no room.

        Args:
            corrected: bool [H].
            routed: bool [T, H].
        """
        corrections, routing = self._feature_keys()
        spent = corrections * corrected + routing * routed
        mix = BlockMix(*(plane.copy() for plane in self._current))
        numbers = np.zeros(routed.shape, dtype=np.int32)
        for at in self._payers:
            if not spent[at].any():
                continue
            budget = _at(mix, at).keys(self._cost.block_k) - math.ceil(spent[at].sum())
            if budget < self._least(spent[at].size):
                return None
            mix.exact[at], mix.fine[at] = self._chosen(at, budget)
        for mask_bin, head in np.argwhere(routed).tolist():
            found = self.routed(mask_bin, head, _at(mix, (mask_bin, head)))
            if found is None:
                return None
            numbers[mask_bin, head], (mix.exact[mask_bin, head], mix.fine[mask_bin, head]) = found
        return mix, numbers

    @property
    def _routing(self) -> float:
        return self._cost.routing(self._query_blocks)

    def _feature_keys(self) -> tuple[NDArray[np.float64], float]:
        """What the correction of each head costs, f64 [T, H], and routing."""
        keys = [
            _at(self._current, at).keys(self._cost.block_k)
            for at in np.ndindex(self._error.shape[:2])
        ]
        of_heads = [self._cost.correction(of_head, self._query_blocks) for of_head in keys]
        return np.reshape(of_heads, self._error.shape[:2]), self._routing

    def _least(self, heads: int) -> int:
        """Keys of heads whose forced blocks alone are exact."""
        return heads * BlockMix(self._forced, np.zeros_like(self._forced)).keys(self._cost.block_k)

    def _chosen(self, at: _Place, budget: int) -> BlockMix:
        of_blocks = self._error[at], self._fine_error[at]
        return smooth_mix(BlockErrors(*of_blocks, self._forced, self._cost.block_k), budget)

    def _left(self, mix: BlockMix, at: _Place | tuple[()] = ()) -> NDArray[np.float64]:
        """Errors of heads with a mix, summed over their blocks."""
        of_blocks = np.where(mix.fine, self._fine_error[at], self._error[at])
        left = np.where(mix.exact, 0.0, of_blocks).sum(axis=(-2, -1), dtype=np.float64)
        return np.asarray(left)


def _at(mix: BlockMix, at: _Place) -> BlockMix:
    return BlockMix(mix.exact[at], mix.fine[at])


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
        alternative: the heads with them.
        mask_bin: the bin of the capture.

    Returns:
        sums "errors" [T, H, 2, 2], by (dynamic, corrected), infinite where there is no room, and
        "energy" [T, H]; zero outside the bin.
    """
    device, site = inputs.query.device, inputs.site
    config = quantized_config(settings, None)
    existing = block_count(inputs.length, settings.block_q)
    blocks = sampled_query_blocks(existing, settings.error_query_blocks)
    identity = identity_affine(site.head_dim, device)
    errors = np.zeros((settings.bins, site.heads, 2, 2))
    energy = np.zeros((settings.bins, site.heads))
    for head in range(site.heads):
        of_head, order = inputs.head(head), orders[head].to(device)
        dense = dense_rows(of_head, order, settings.block_q, blocks)
        energy[mask_bin, head] = _squared(dense)
        tried = (0, current_mix(masks, mask_bin, head)), alternative.routed(mask_bin, head)
        for dynamic, found in enumerate(tried):
            if found is None:
                errors[mask_bin, head, dynamic] = math.inf
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
        alternative: the heads with version 2's other features.
        measured: the summed `trial_contribution`s; empty without held-out captures.
    """
    if not measured:
        return masks
    errors = measured[_ERRORS]
    corrected, routed = features_that_pay(errors, alternative)
    found = alternative.pay(corrected, routed)
    while found is None:
        # No room for all: without routing, then without the head that gains least.
        if routed.any():
            routed[:] = False
        else:
            gain = 1.0 - errors[:, :, 0, 1].sum(axis=0) / errors[:, :, 0, 0].sum(axis=0)
            corrected[np.where(corrected, gain, np.inf).argmin()] = False
        found = alternative.pay(corrected, routed)
    (exact, fine), numbers = found
    return describe_masks(scores, exact, fine)._replace(
        dynamic_blocks=numbers if numbers.any() else None,
        corrected_heads=corrected.astype(np.int32) if corrected.any() else None,
    )


def features_that_pay(
    errors: NDArray[np.float64], alternative: Alternative
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Heads that are corrected, bool [H], and heads and bins with blocks chosen at run time, bool
    [T, H]: those that gain more than `LEAST_GAIN` and the price on top.

    Args:
        errors: f64 [T, H, 2, 2], of `trial_contribution`.
        alternative: of the layer.
    """
    correction, routing = alternative.prices()
    plain = errors[:, :, 0, 0]
    pays = errors[:, :, 1] < (1.0 - LEAST_GAIN - routing[..., None]) * errors[:, :, 0]
    # A head's flag serves all bins: the best of each bin without and with it are compared.
    best = np.where(pays, errors[:, :, 1], errors[:, :, 0]).sum(axis=0)
    corrected = best[:, 1] < best[:, 0] - ((LEAST_GAIN + correction) * plain).sum(axis=0)
    return corrected, np.where(corrected, pays[..., 1], pays[..., 0])


def _squared(rows: Tensor) -> float:
    return float(rows.double().square().sum())
