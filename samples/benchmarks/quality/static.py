"""Policies made beforehand: version 1, version 2 by parts and whole, and PARO's own masks.

The selection is the benchmark's (`selection.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from paro_trt.calibration.select_order import OrderMetric
from paro_trt.op.spec import CORRECTION_ROWS

from .blocks import Choice, Kind, attend
from .calibrated import AS_PLANNED, Calibrated, LayerErrors, Learned, of_rows
from .selection import cheapest_exact, cheapest_kinds
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
        dynamic: share of the budget for blocks chosen at run time; 1: all but the forced blocks.
        plain_errors: blocks of corrected heads are chosen as those of the others.
        charged: the budget also pays for the attention of the mean queries.
    """

    block_q: int = 128
    fine: bool = False
    corrected: bool = False
    dynamic: float = 0.0
    plain_errors: bool = False
    charged: bool = False


class _LayerMasks(NamedTuple):
    """kinds: uint8 [H, n, NK]; corrected, dynamic (k): of each head."""

    kinds: Tensor
    corrected: tuple[bool, ...]
    dynamic: tuple[int, ...]


class CalibratedPolicy:
    """Static masks with what the recipe adds.

    Args:
        calibrated: of the source.
        recipe: what it has.
        cost: keys that a query attends, summaries included, as a share of S.
        learned: which captures the masks are made of.
    """

    def __init__(
        self, calibrated: Calibrated, recipe: Recipe, cost: float, learned: Learned = AS_PLANNED
    ) -> None:
        self.calibrated, self.recipe, self.learned = calibrated, recipe, learned
        self.keys = cost * calibrated.source.tokens
        if recipe.charged:
            # One dense and one sparse row for each run of 128, in heads that are corrected.
            self.keys -= (1 + cost) * calibrated.source.tokens / CORRECTION_ROWS
        self.masks = lru_cache(maxsize=None)(self._masks)

    def choose(self, call: LayerCall) -> list[Choice] | None:
        """The choice of each head; None: the budget is less than the forced blocks."""
        masks = self.masks(call.layer, call.half)
        if masks is None:
            return None
        orders = self.calibrated.orders(call.layer)
        kinds = masks.kinds.clone()
        for head, count in enumerate(masks.dynamic):
            if count:
                # As the op routes: the largest that are not exact, ties to the lower index.
                errors = self.calibrated.estimates(call, head)
                errors = errors.masked_fill(kinds[head] == Kind.EXACT, -torch.inf)
                ranked = errors.argsort(dim=1, descending=True, stable=True)[:, :count]
                kinds[head].scatter_(1, ranked, int(Kind.EXACT))
        return [Choice(*parts) for parts in zip(orders, kinds, masks.corrected, strict=True)]

    def _masks(self, layer: int, half: int) -> _LayerMasks | None:
        errors = self.calibrated.errors(layer, half, self.learned)
        heads = len(errors.coarse)
        none = (False,) * heads
        per_row = self._blocks_per_row(heads)
        keys = self.keys - sum(per_row) * (BLOCK_K - 1) / heads
        kinds = self._select(errors, none, keys)
        if kinds is None:
            return None
        corrected = none
        if self.recipe.corrected:
            everywhere = (True,) * heads
            corrected = self._where_it_helps(
                layer, half, kinds, self._select(errors, everywhere, keys)
            )
            kinds = self._select(errors, corrected, keys)
        # Heads whose static masks leave most get the blocks that do not divide evenly.
        left = self._left(layer, half, kinds, corrected)
        ranked = sorted(range(heads), key=lambda head: -left[head])
        dynamic = [0] * heads
        for count, head in zip(per_row, ranked, strict=True):
            dynamic[head] = count
        return _LayerMasks(kinds, corrected, tuple(dynamic))

    def _blocks_per_row(self, heads: int) -> list[int]:
        """Run-time blocks of the heads, those with more first."""
        source = self.calibrated.source
        if self.recipe.dynamic == 0.0:
            return [0] * heads
        keys = self.recipe.dynamic * self.keys
        if self.recipe.dynamic == 1.0:
            forced = source.forced(BLOCK_Q).sum(dim=1).double().mean()
            keys -= float(forced) * (BLOCK_K - 1) + source.tokens / BLOCK_K
        total = max(round(keys * heads / BLOCK_K - 0.5 * (self.recipe.dynamic == 1.0)), 0)
        return [total // heads + (index < total % heads) for index in range(heads)]

    def _select(
        self, errors: LayerErrors, corrected: tuple[bool, ...], keys: float
    ) -> Tensor | None:
        block_q = self.recipe.block_q
        use = torch.tensor(corrected) & (not self.recipe.plain_errors)
        use = use[:, None, None]
        coarse = torch.where(use, errors.corrected_coarse, errors.coarse)
        fine = torch.where(use, errors.corrected_fine, errors.fine)
        kinds = cheapest_kinds(
            of_rows(coarse, block_q),
            of_rows(fine, block_q) if self.recipe.fine else None,
            self.calibrated.source.forced(block_q),
            keys,
        )
        return None if kinds is None else kinds.repeat_interleave(block_q // BLOCK_Q, dim=1)

    def _where_it_helps(
        self, layer: int, half: int, plain: Tensor, corrected: Tensor
    ) -> tuple[bool, ...]:
        """The heads that lose less on the validation capture with the correction and its masks."""
        helps = []
        for head in range(len(plain)):
            found = self.calibrated.validation_terms(layer, half ^ self.learned.other_half, head)
            choices = [Choice("", plain[head]), Choice("", corrected[head], corrected=True)]
            without, with_it = (attend(found, choices) - found.dense).square().sum(dim=(1, 2, 3))
            helps.append(bool(with_it < without))
        return tuple(helps)

    def _left(
        self, layer: int, half: int, kinds: Tensor, corrected: tuple[bool, ...]
    ) -> list[float]:
        """Error of each head on the validation capture, in shares of its energy."""
        if not self.recipe.dynamic:
            return [0.0] * len(kinds)
        left = []
        for head in range(len(kinds)):
            found = self.calibrated.validation_terms(layer, half ^ self.learned.other_half, head)
            output = attend(found, [Choice("", kinds[head], corrected[head])])[0]
            left.append(float((output - found.dense).square().sum() / found.dense.square().sum()))
        return left


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
        errors = self.calibrated.errors(call.layer, call.half, AS_PLANNED, orders)
        kinds = cheapest_exact(errors.mass, source.forced(BLOCK_Q), self.keys)
        if kinds is None:
            return None
        return [Choice(order, head) for order, head in zip(orders, kinds, strict=True)]
