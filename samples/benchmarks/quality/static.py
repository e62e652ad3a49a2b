"""Policies made beforehand: version 1, version 2 by parts and whole, and PARO's own masks.

Version 1 and 2 are chosen by what `paro-trt calibrate` chooses them by: `select_mixes`, and
`with_features` on a validation capture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray

from paro_trt.calibration.select_mask import (
    Allocation,
    LayerMasks,
    LayerScores,
    describe_masks,
)
from paro_trt.calibration.select_mix import BlockMix, select_mixes
from paro_trt.calibration.select_order import OrderMetric
from paro_trt.calibration.trials import Alternative, current_mix, with_features
from paro_trt.plan import KeyCost

from .blocks import Choice, Kind, attend
from .calibrated import AS_PLANNED, Calibrated, LayerErrors, Learned, of_rows
from .selection import cheapest_exact, kinds_of
from .sources import BLOCK_K, BLOCK_Q, LayerCall

AXIS_ORDERS = ("fhw", "fwh", "hfw", "hwf", "wfh", "whf")
"""The orders that the paper tries."""


@dataclass(frozen=True)
class Recipe:
    """What a calibrated policy has.

    Args:
        block_q: rows that share a mask row.
        fine: blocks may have four summaries.
        corrected: heads have the mean correction where it helps on a validation capture.
        routed: query blocks choose blocks at run time where that helps there.
        corrected_errors: blocks of heads that may be corrected are chosen by the error that the
            correction leaves, which `paro-trt calibrate` does not know.
    """

    block_q: int = 128
    fine: bool = False
    corrected: bool = False
    routed: bool = False
    corrected_errors: bool = False


class CalibratedPolicy:
    """Static masks with what the recipe adds.

    Args:
        calibrated: of the source.
        recipe: what it has.
        cost: keys that a query meets, all work counted (`KeyCost`), as a share of S.
        learned: which captures the masks are made of.
    """

    def __init__(
        self, calibrated: Calibrated, recipe: Recipe, cost: float, learned: Learned = AS_PLANNED
    ) -> None:
        self.calibrated, self.recipe, self.cost = calibrated, recipe, cost
        self.learned = learned
        self.key_cost = KeyCost(calibrated.source.tokens, recipe.block_q, BLOCK_K)
        self.masks = lru_cache(maxsize=None)(self._masks)

    def choose(self, call: LayerCall) -> list[Choice] | None:
        """The choice of each head; None: the budget is less than the forced blocks."""
        masks = self.masks(call.layer)
        if masks is None:
            return None
        mask_bin = call.half if len(masks.mask) == 2 else 0
        return [
            self._choice(call, head, *_of_head(masks, mask_bin, head), order)
            for head, order in enumerate(self.calibrated.orders(call.layer))
        ]

    def _choice(
        self, call: LayerCall, head: int, number: int, mix: BlockMix, corrected: bool,
        order: str = "",
    ) -> Choice:  # fmt: skip
        """What a head attends of a call, with `number` blocks of each query block chosen in it."""
        kinds = kinds_of(mix).repeat_interleave(self.recipe.block_q // BLOCK_Q, dim=0)
        if number:
            # As the op routes: the largest that are not exact, ties to the lower index.
            errors = self.calibrated.estimates(call, head)
            errors = errors.masked_fill(kinds == Kind.EXACT, -torch.inf)
            ranked = errors.argsort(dim=1, descending=True, stable=True)[:, :number]
            kinds.scatter_(1, ranked, int(Kind.EXACT))
        choice = Choice(order, kinds, corrected)
        extra = self.key_cost.correction(choice.keys, 1) if corrected else 0.0
        return choice._replace(extra=extra + (self.key_cost.routing(1) if number else 0.0))

    def _masks(self, layer: int) -> LayerMasks | None:
        """A bin for each half of the schedule, or one for both."""
        forced = self.calibrated.source.forced(self.recipe.block_q).numpy()
        bins = self.learned.bins(self.calibrated.source.halves)
        errors = [self.calibrated.errors(layer, half, self.learned.split) for half in bins]
        scores = self._scores(errors)
        (masks,) = select_mixes(
            [scores], forced, self.cost, self.key_cost.tokens, BLOCK_K, Allocation.LAYER
        )
        least = BlockMix(forced, np.zeros_like(forced)).keys(BLOCK_K)
        if least > self.cost * self.key_cost.tokens * len(forced):
            return None
        if not (self.recipe.corrected or self.recipe.routed):
            return masks
        alternative = Alternative(scores, masks, forced, self.key_cost)
        chosen = with_features(
            scores, masks, alternative, {"errors": self._tried(layer, bins, masks, alternative)}
        )
        if not self.recipe.corrected_errors or chosen.corrected_heads is None:
            return chosen
        flags = chosen.corrected_heads.astype(bool)
        left = self._scores(errors, flags)
        found = Alternative(left, masks, forced, self.key_cost).pay(
            flags, np.zeros((len(bins), len(flags)), dtype=bool)
        )
        assert found is not None  # the plain errors left room
        mix, _ = found
        return describe_masks(left, *mix)._replace(corrected_heads=chosen.corrected_heads)

    def _scores(
        self, of_bins: Sequence[LayerErrors], corrected: NDArray[np.bool_] | None = None
    ) -> LayerScores:
        """As calibration has them; of `corrected` heads, those that the correction leaves."""

        def stacked(name: str) -> NDArray[np.float32]:
            parts = [of_rows(getattr(errors, name), self.recipe.block_q) for errors in of_bins]
            plain = np.asarray(torch.stack(parts).numpy())
            if corrected is None or name == "mass":
                return plain
            parts = [
                of_rows(getattr(errors, f"corrected_{name}"), self.recipe.block_q)
                for errors in of_bins
            ]
            return np.where(corrected[:, None, None], torch.stack(parts).numpy(), plain)

        mass = stacked("mass")
        fine = stacked("fine") if self.recipe.fine else None
        return LayerScores(stacked("coarse"), mass, np.ones(mass.shape[:2]), fine)

    def _tried(
        self,
        layer: int,
        bins: Sequence[int | None],
        masks: LayerMasks,
        alternative: Alternative,
    ) -> NDArray[np.float64]:
        """Squared errors on validation captures, [T, H, 2, 2] by (dynamic, corrected); infinite
        what the recipe does not have."""
        errors = np.full((*masks.density.shape, 2, 2), np.inf)
        for mask_bin, head in np.ndindex(masks.density.shape):
            tried = [(0, current_mix(masks, mask_bin, head))]
            if self.recipe.routed and (found := alternative.routed(mask_bin, head)):
                tried.append(found)
            calls = self.calibrated.validation_calls(layer, bins[mask_bin])
            for dynamic, corrected in product(range(len(tried)), range(1 + self.recipe.corrected)):
                errors[mask_bin, head, dynamic, corrected] = sum(
                    self._squared_error(
                        call, head, self._choice(call, head, *tried[dynamic], bool(corrected))
                    )
                    for call in calls
                )
        return errors

    def _squared_error(self, call: LayerCall, head: int, choice: Choice) -> float:
        """On a validation capture."""
        found = self.calibrated.validation_terms(call, head)
        return float((attend(found, [choice])[0] - found.dense).square().sum())


def _of_head(masks: LayerMasks, mask_bin: int, head: int) -> tuple[int, BlockMix, bool]:
    """How many blocks each query block of a head chooses, the static ones, and whether the head is
    corrected."""
    number = 0 if masks.dynamic_blocks is None else int(masks.dynamic_blocks[mask_bin, head])
    corrected = masks.corrected_heads is not None and bool(masks.corrected_heads[head])
    return number, current_mix(masks, mask_bin, head), corrected


class RunTimePolicy:
    """All blocks but the forced ones chosen in the call, as many in each row of a head.

    Args:
        calibrated: of the source.
        cost: as of `CalibratedPolicy`.
    """

    def __init__(self, calibrated: Calibrated, cost: float) -> None:
        self.calibrated, self.cost = calibrated, cost

    def choose(self, call: LayerCall) -> list[Choice] | None:
        """The choice of each head; None: the budget is less than the forced blocks."""
        source = self.calibrated.source
        forced = source.forced(BLOCK_Q)
        routing = KeyCost(source.tokens, BLOCK_Q, BLOCK_K).routing(1)
        summaries = forced.shape[1] + float(forced.sum(dim=1).double().mean()) * (BLOCK_K - 1)
        total = int((self.cost * source.tokens - routing - summaries) * call.heads / (BLOCK_K - 1))
        if total < 0:
            return None
        choices = []
        for head, order in enumerate(self.calibrated.orders(call.layer)):
            number = total // call.heads + (head < total % call.heads)
            errors = self.calibrated.estimates(call, head).masked_fill(forced, torch.inf)
            ranked = errors.argsort(dim=1, descending=True, stable=True)
            taken = torch.arange(len(forced.T)) < (forced.sum(dim=1) + number)[:, None]
            levels = torch.where(taken, int(Kind.EXACT), int(Kind.COARSE)).to(torch.uint8)
            kinds = torch.zeros_like(levels).scatter_(1, ranked, levels)
            choices.append(Choice(order, kinds, extra=routing))
        return choices


class PaperPolicy:
    """PARO as published (arXiv 2506.16054): an axis order for each head by its metric, blocks by
    attention mass with one threshold for the layer, the others vanish.

    Args:
        calibrated: of the source.
        cost: as of `CalibratedPolicy`.
    """

    def __init__(self, calibrated: Calibrated, cost: float) -> None:
        self.calibrated, self.keys = calibrated, cost * calibrated.source.tokens

    def choose(self, call: LayerCall) -> list[Choice] | None:
        """The choice of each head; None: the budget is less than the forced blocks."""
        source = self.calibrated.source
        names = tuple(name for name in AXIS_ORDERS if name in source.orders)
        orders = self.calibrated.orders(call.layer, OrderMetric.PAPER, names)
        errors = self.calibrated.errors(call.layer, call.half, orders=orders)
        kinds = cheapest_exact(errors.mass, source.forced(BLOCK_Q), self.keys)
        if kinds is None:
            return None
        return [Choice(order, head) for order, head in zip(orders, kinds, strict=True)]
