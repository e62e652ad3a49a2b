"""What a static policy knows beforehand: orders, errors of blocks, and gains, of other captures."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from functools import cached_property, lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from paro_trt.calibration.select_mask import MaskTarget, forced_blocks
from paro_trt.calibration.select_order import OrderMetric, choose_orders, order_terms
from paro_trt.calibration.statistics import Tiling, block_statistics, sampled_query_blocks
from paro_trt.op.routing import estimated_errors
from paro_trt.op.spec import CORRECTION_ROWS, AttentionConfig

from .blocks import Terms, block_errors, terms
from .sources import BLOCK_K, BLOCK_Q, LayerCall, Source, Split

ORDER_DENSITY = 0.2
"""Where orders are compared; one order serves every budget."""

SAMPLED_BLOCKS, SAMPLED_ROWS = 12, 16
"""Query blocks of a capture that orders and windows are judged by, and rows of each."""

DEFAULT_TILING = Tiling(AttentionConfig().block_q, AttentionConfig().block_k)


class LayerErrors(NamedTuple):
    """Means over a layer's captures, [H, n, NK]: errors in shares of the layer's energy, and mass
    in shares of a head's rows."""

    dropped: Tensor
    coarse: Tensor
    fine: Tensor
    corrected_coarse: Tensor
    corrected_fine: Tensor
    mass: Tensor


class Half(Enum):
    """The half of the schedule that masks are made of, by the half that they serve."""

    OWN = "own"
    OTHER = "other"
    BOTH = "both"


class Learned(NamedTuple):
    """Which captures masks are made of.

    split: of calls. half: of the schedule.
    """

    split: Split = Split.CALIBRATION
    half: Half = Half.OWN

    def bins(self, halves: Sequence[int]) -> Sequence[int | None]:
        """The half that each bin's masks are made of; None: both, in one bin."""
        if self.half is Half.BOTH:
            return (None,)
        return tuple(halves) if self.half is Half.OWN else tuple(reversed(halves))


AS_PLANNED = Learned()
"""How plans of two bins are made."""

ONE_BIN = "both halves"

DRIFTS = {
    "other prompts": AS_PLANNED,
    "same calls": Learned(Split.HELDOUT),
    "same prompts, other seeds": Learned(Split.RESEEDED),
    "other half of the schedule": Learned(half=Half.OTHER),
    ONE_BIN: Learned(half=Half.BOTH),
}
"""Which captures masks are made of; the first is how plans of two bins are made, the last how
those of one bin are."""


class Calibrated:
    """Orders and errors of a source's captures, made when they are asked for.

    Args:
        source: captures in splits.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.orders = lru_cache(maxsize=None)(self._orders)
        self.errors = lru_cache(maxsize=None)(self._errors)
        self.validation_terms = lru_cache(maxsize=None)(self._validation_terms)
        self.sampled_errors = lru_cache(maxsize=None)(self._sampled_errors)
        self.estimates = lru_cache(maxsize=8)(self._estimates)

    def forget(self) -> None:
        """Free what was made for a layer."""
        for cache in (self.errors, self.validation_terms, self.sampled_errors):
            cache.cache_clear()

    def _orders(
        self,
        layer: int,
        metric: OrderMetric = OrderMetric.OUTPUT_ERROR,
        names: tuple[str, ...] | None = None,
    ) -> tuple[str, ...]:
        """The order of each head of a layer, as `paro_trt.calibration` compares them."""
        names = names or tuple(self.source.orders)
        blocks = self.sampled_blocks
        forced = self._forced[list(blocks)]
        calls = self._judging_calls(layer)
        costs = np.zeros((len(names), calls[0].heads, 2))
        for call, head, index in product(calls, range(calls[0].heads), range(len(names))):
            order = self.source.orders[names[index]]
            found = block_statistics(
                call.head(head),
                order,
                DEFAULT_TILING,
                pooled=metric is not OrderMetric.PAPER,
                query_blocks=blocks,
                rows_per_block=SAMPLED_ROWS,
                paper=metric is OrderMetric.PAPER,
            )
            costs[index, head] += order_terms(found, forced, MaskTarget(ORDER_DENSITY), metric)
        return tuple(names[int(index)] for index in choose_orders(costs, metric, 1))

    def _errors(
        self,
        layer: int,
        half: int | None,
        split: Split = Split.CALIBRATION,
        orders: tuple[str, ...] | None = None,
    ) -> LayerErrors:
        """Mean errors of a layer's blocks of 64 rows in a half of the schedule, or in both."""
        if half is None:
            halves = [self.errors(layer, half, split, orders) for half in (0, 1)]
            counts = [len(self.source.of(split, layer, half)) for half in (0, 1)]
            return LayerErrors(
                *(
                    (counts[0] * one + counts[1] * other) / sum(counts)
                    for one, other in zip(*halves, strict=True)
                )
            )
        calls = self.source.of(split, layer, half)
        return mean_errors(self.source, calls, orders or self.orders(layer))

    def _validation_terms(self, call: LayerCall, head: int) -> Terms:
        """In the head's order."""
        order = self.source.orders[self.orders(call.layer)[head]]
        return terms(call.head(head), order, self.source.runs)

    def validation_calls(self, layer: int, half: int | None) -> list[LayerCall]:
        """The last validation capture of a half of the schedule, or of each half."""
        halves = (0, 1) if half is None else (half,)
        calls = (self.source.of(Split.VALIDATION, layer, half) for half in halves)
        return [of_half[-1] for of_half in calls if of_half]

    @cached_property
    def sampled_blocks(self) -> tuple[int, ...]:
        """The query blocks, of 128 rows, that orders and windows are judged by."""
        return sampled_query_blocks(len(self._forced), SAMPLED_BLOCKS)

    def _sampled_errors(self, layer: int, head: int, order: str) -> Tensor:
        """[sampled blocks, NK], shares of the energy that leaving out single blocks costs."""
        total = torch.zeros(())
        for call in self._judging_calls(layer):
            found = block_statistics(
                call.head(head),
                self.source.orders[order],
                DEFAULT_TILING,
                pooled=False,
                query_blocks=self.sampled_blocks,
                rows_per_block=SAMPLED_ROWS,
            )
            total = total + found.error / found.energy.sum()
        return total

    def _estimates(self, call: LayerCall, head: int) -> Tensor:
        """[n, NK], by which the op chooses blocks at run time."""
        inputs = call.head(head)
        order = self.source.orders[self.orders(call.layer)[head]]
        rows = (part[order] for part in (inputs.query, inputs.key, inputs.value))
        config = AttentionConfig(BLOCK_Q, BLOCK_K, pool_dropped=True, scale=call.scale)
        errors = estimated_errors(*rows, config, torch.float32)
        return errors[self.source.query_blocks()]

    def _judging_calls(self, layer: int) -> list[LayerCall]:
        """A calibration call of each half: trying every order is expensive."""
        halves = (self.source.of(Split.CALIBRATION, layer, half) for half in (0, 1))
        return [calls[0] for calls in halves if calls]

    @cached_property
    def _forced(self) -> Tensor:
        source = self.source
        return torch.from_numpy(forced_blocks(source.tokens, source.text, DEFAULT_TILING))


def mean_errors(source: Source, calls: Sequence[LayerCall], orders: Sequence[str]) -> LayerErrors:
    """Errors of some calls of a layer, in the order of each head."""
    sums = None
    rows = len(source.runs) * CORRECTION_ROWS
    for call in calls:
        heads = [
            block_errors(terms(call.head(head), source.orders[name], source.runs))
            for head, name in enumerate(orders)
        ]
        *errors, mass, energy = (torch.stack(parts) for parts in zip(*heads, strict=True))
        whole = energy.sum().clamp(min=torch.finfo(torch.float32).tiny)
        of_call = [*(part / whole for part in errors), mass / rows]
        sums = of_call if sums is None else [x + y for x, y in zip(sums, of_call, strict=True)]
    assert sums is not None
    return LayerErrors(*(part / len(calls) for part in sums))


def of_rows(errors: Tensor, block_q: int) -> Tensor:
    """[H, n, NK] of blocks of 64 rows -> [H, n', NK] of blocks of `block_q` rows."""
    return errors.unflatten(1, (-1, block_q // BLOCK_Q)).sum(dim=2)


def block_means(x: Tensor, block: int) -> Tensor:
    """[S, D] -> [S / block, D]."""
    return x.unflatten(0, (-1, block)).mean(dim=1)
