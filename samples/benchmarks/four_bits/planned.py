"""Layers decided as `paro-trt calibrate` decides them, and the error of their heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from paro_trt.calibration.inputs import LayerInputs
from paro_trt.calibration.op_error import PlannedHead, attended_rows, dense_rows
from paro_trt.calibration.quantize import (
    QuantizationChoice,
    channel_ranges,
    choose_quantization,
    measure_quantization,
)
from paro_trt.calibration.select_mask import (
    Allocation,
    LayerScores,
    MaskMetric,
    MaskTarget,
    forced_blocks,
    select_masks,
)
from paro_trt.calibration.statistics import Tiling, block_statistics, sampled_query_blocks
from paro_trt.families.base import AttentionSite
from paro_trt.op.quantization import ChannelAffine
from paro_trt.op.smoothing import head_signs

from ..quality.calibrated import Calibrated
from ..quality.sources import LayerCall, Source, Split
from .modes import BLOCK_K, BLOCK_Q, DENSITY, EXACT, MODES, Bits

_ANY_ERROR = float("inf")


class Agreement(NamedTuple):
    """Sums over output numbers, of which errors and cosines of any set are made.

    error: squared difference from dense attention; dense, found: energies; product: of both.
    """

    error: float = 0.0
    dense: float = 0.0
    found: float = 0.0
    product: float = 0.0

    @classmethod
    def of(cls, found: Tensor, dense: Tensor) -> Agreement:
        """Of outputs of one shape."""
        one, other = found.double(), dense.double()
        parts = (one - other).square(), other.square(), one.square(), one * other
        return cls(*(float(part.sum()) for part in parts))

    def plus(self, other: Agreement) -> Agreement:
        """Of both sets of numbers."""
        return Agreement(*(one + two for one, two in zip(self, other, strict=True)))

    @property
    def relative_error(self) -> float:
        """|A - dense| / |dense|."""
        return float((self.error / self.dense) ** 0.5)

    @property
    def cosine(self) -> float:
        """Of the angle between A and dense."""
        return float(self.product / (self.dense * self.found) ** 0.5)


@dataclass(frozen=True, eq=False)
class Planned:
    """A layer's decisions, made of calibration captures.

    orders: of each head, int64 [S]; masks: bool [halves, H, NQ, NK] at `DENSITY`; only rows of
    judged query blocks are meaningful. errors: of `measure_quantization`, smoothed and plain.
    """

    source: Source
    block_q: int
    orders: Sequence[Tensor]
    masks: np.ndarray
    ranges: Mapping[str, np.ndarray]
    errors: Mapping[bool, Mapping[str, np.ndarray]]

    @property
    def judged(self) -> list[int]:
        """The query blocks whose rows are compared."""
        return [int(block) for block in self.source.query_blocks(self.block_q)]

    @cached_property
    def choices(self) -> dict[Bits, QuantizationChoice]:
        """Affine and rotation of all modes."""
        return {
            bits: quantization_choice(self.errors, self.ranges, bits) for bits in (EXACT, *MODES)
        }

    def head(self, head: int, bits: Bits, half: int | None) -> PlannedHead:
        """One head in a mode; all blocks are exact where `half` is None."""
        mask = torch.ones(self.masks.shape[2:], dtype=torch.bool)
        if half is not None:
            mask = torch.from_numpy(self.masks[min(half, len(self.masks) - 1), head])
        return planned_head(self.choices[bits], bits, head, self.orders[head], mask)

    def agreement(self, call: LayerCall, bits: Bits, sparse: bool) -> Agreement:
        """Of all heads of a call in a mode with dense attention."""
        total, config = Agreement(), bits.config(self.block_q)
        for index in range(call.heads):
            inputs = call.head(index)
            of_head = self.head(index, bits, call.half if sparse else None)
            dense = dense_rows(inputs, of_head.order, self.block_q, self.judged)
            found = attended_rows(inputs, of_head, config, self.judged)
            total = total.plus(Agreement.of(found, dense))
        return total


def plan_layer(
    source: Source, calibrated: Calibrated, layer: int, block_q: int = BLOCK_Q
) -> Planned:
    """Decide a layer as `calibrate` does."""
    orders = [source.orders[name] for name in calibrated.orders(layer)]
    halves = sorted({call.half for call in source.calls[Split.CALIBRATION]})
    tiling, judged = Tiling(block_q, BLOCK_K), source.query_blocks(block_q).tolist()
    forced = forced_blocks(source.tokens, source.text, tiling)
    calls = [source.of(Split.CALIBRATION, layer, half)[0] for half in halves]
    masks = np.zeros((len(halves), len(orders), *forced.shape), dtype=bool)
    found = [
        [
            block_statistics(call.head(h), order, tiling, pooled=True, query_blocks=judged)
            for h, order in enumerate(orders)
        ]
        for call in calls
    ]
    energy = np.array([[float(of.energy.sum()) for of in heads] for heads in found])
    energy_of_layer = energy.sum(axis=1)[:, None]
    error = np.stack([np.stack([of.error.numpy() for of in heads]) for heads in found])
    mass = np.stack([np.stack([of.mass.numpy() for of in heads]) for heads in found])
    scores = LayerScores(error / energy_of_layer[..., None, None], mass, energy / energy_of_layer)
    chosen = select_masks(
        [scores], forced[judged], MaskTarget(DENSITY), MaskMetric.OUTPUT_ERROR, Allocation.LAYER
    )[0]
    masks[:, :, judged] = chosen.mask
    ranges = ranges_of(calls)
    blocks = sampled_query_blocks(forced.shape[0], 4)
    errors = {
        smoothed: quantization_errors(calls, torch.stack(orders), ranges, smoothed, block_q, blocks)
        for smoothed in (False, True)
    }
    return Planned(source, block_q, orders, masks, ranges, errors)


def ranges_of(calls: Sequence[LayerCall]) -> dict[str, np.ndarray]:
    """What `channel_ranges` finds in all calls together."""
    found = [channel_ranges(call.query, call.key, call.value) for call in calls]
    sums = {name: sum(of.sums[name] for of in found) for name in found[0].sums}
    maxima = {
        name: np.maximum.reduce([of.maxima[name] for of in found]) for name in found[0].maxima
    }
    return {**sums, **maxima}


def quantization_errors(
    calls: Sequence[LayerCall], orders: Tensor, ranges: Mapping[str, np.ndarray], smoothed: bool,
    block_q: int, blocks: Sequence[int],
) -> dict[str, np.ndarray]:  # fmt: skip
    """What `measure_quantization` sums over calls at 4 bits, with all blocks exact.

    Args:
        calls: of one layer.
        orders: int64 [H, S].
        ranges: of `ranges_of`.
        smoothed: query x key is.
        block_q: rows of a query block.
        blocks: query blocks that are judged.
    """
    heads, tokens = orders.shape
    everything = torch.ones((heads, -(-tokens // block_q), -(-tokens // BLOCK_K)), dtype=torch.bool)
    config, sums = Bits(4, 4, smoothed).config(block_q), dict[str, np.ndarray]()
    for call in calls:
        site = AttentionSite("attention", heads, heads, call.query.shape[2])
        inputs = LayerInputs(site, call.query, call.key, call.value, call.scale)
        found = measure_quantization(inputs, orders, everything, ranges, config, blocks)
        for name, value in found.sums.items():
            sums[name] = sums.get(name, 0.0) + value
    return sums


def quantization_choice(
    errors: Mapping[bool, Mapping[str, np.ndarray]], ranges: Mapping[str, np.ndarray], bits: Bits
) -> QuantizationChoice:
    """Affine and rotation of a mode, by errors smoothed and plain."""
    return choose_quantization(errors[bits.smoothed], ranges, bits.config(), _ANY_ERROR)


def planned_head(
    choice: QuantizationChoice, bits: Bits, head: int, order: Tensor, mask: Tensor
) -> PlannedHead:
    """One head with its layer's affine and rotation."""
    affine = ChannelAffine.of_head(torch.from_numpy(choice.channel_affine), head, bits.config())
    rotation = None if choice.rotation is None else torch.from_numpy(choice.rotation)
    return PlannedHead(order, mask, affine, signs=head_signs(rotation, head))
