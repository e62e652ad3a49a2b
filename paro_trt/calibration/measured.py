"""The passes of `Allocation.MEASURED`, between the scores of blocks and the choice of masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..plan import EFFECT, TIME_SHARE, figure_name
from .allocate import LayerChoice, choose, grouped, head_groups, joined, tried_widths
from .assemble import LayerDecision
from .calls import RecordedCall
from .effects import (
    LayerOptions,
    measured_effects,
    planned_attention,
    prediction,
    squared,
)
from .passes import attention_config, error_contribution, head_orders, quantized_config
from .quantize import Product, QuantizationChoice, choose_quantization
from .run import CalibrationRun, Capture
from .select_mask import LayerMasks, LayerScores, describe_masks
from .visits import Visits
from .work import Contribution, WorkDirectory

_ANY_ERROR = float("inf")
"""What 4 bits may add to a layer's attention: here the prediction decides."""


class MeasuredAllocation:
    """What each layer keeps, chosen by its effect on the prediction.

    Args:
        run: of the calibration.
        store: where finished work is kept.
        visits: of the recorded calls.
        scores: of a layer.
        ranges: of a layer's channels.
    """

    def __init__(
        self,
        run: CalibrationRun,
        store: WorkDirectory,
        visits: Visits,
        scores: Callable[[int], LayerScores],
        ranges: Callable[[int], dict[str, NDArray[Any]]],
    ) -> None:
        self._run, self._store, self._visits = run, store, visits
        self._scores, self._ranges = scores, ranges
        self.head_groups = cache(lambda layer: head_groups(run, scores(layer), layer))
        """The heads of each group of a layer, int64 [G] each; they share their blocks."""

    def measure(self, orders: Sequence[NDArray[np.int32]]) -> None:
        """Measure what the store lacks.

        Args:
            orders: int32 [H] of each layer, the candidate that each head uses.
        """
        run = self._run
        self._visits.visit(
            "bits",
            run.error_captures(),
            _bits,
            lambda layer, capture, inputs: error_contribution(
                inputs,
                run.settings,
                head_orders(run.candidates, orders[layer]),
                _all_blocks(self._scores(layer)),
                self._ranges(layer),
                capture.mask_bin,
            ),
        )

        def of_call(
            capture: Capture, call: RecordedCall, layers: Sequence[int]
        ) -> Iterator[tuple[int, Contribution]]:
            return measured_effects(
                run, capture, call, layers, lambda *of: self._options(orders[of[0]], *of)
            )

        self._visits.visit_calls("effects", run.effect_captures(), _effects, of_call)

    @cached_property
    def choices(self) -> tuple[LayerChoice, ...]:
        """Of every layer, once effects are measured."""
        layers = range(len(self._run.sites))
        return choose(self._run, [self._store.arrays(_effects(layer)) for layer in layers])

    def masks(self, layer: int) -> LayerMasks:
        """What is chosen of a layer's blocks."""
        levels = self.choices[layer].levels
        return joined(self._run, self._scores(layer), self.head_groups(layer), levels)

    def quantization(self, layer: int, measured: Mapping[str, NDArray[Any]]) -> QuantizationChoice:
        """The chosen bits of a layer and their channel affines.

        Args:
            layer: which.
            measured: the summed `error_contribution`s of its masks.
        """
        chosen = self.choices[layer]
        found = self._of_bits(measured, self._ranges(layer), chosen.qk_bits, chosen.pv_bits)
        levels, groups = self._run.settings.levels, self.head_groups(layer)
        kept = " / ".join(
            " + ".join(_level_name(levels[level]) for level in of_bin) for of_bin in chosen.levels
        )
        if len(groups) > 1:
            kept += f" (heads {' + '.join(','.join(map(str, heads)) for heads in groups)})"
        reason = (
            f"QK {chosen.qk_bits}, PV {chosen.pv_bits} and blocks at {kept}: chosen by measured "
            f"effect, adds {chosen.effect**0.5:.2%} to the prediction"
        )
        return found._replace(reason=reason)

    def figures(self, layers: Sequence[LayerDecision]) -> dict[str, float]:
        """What the plan's record keeps: of each layer the effect (relative L2 error of the
        prediction) and the share of the plan's counted time; of all, the time, the error that the
        effects add up to, and that of the whole plan on the same calls."""
        run, choices = self._run, self.choices
        time = sum(choice.time for choice in choices)
        figures = {
            "counted_time": time,
            "counted_speedup": 1.0 / time,
            "expected_prediction_error": sum(choice.effect for choice in choices) ** 0.5,
            "prediction_error": self._prediction_error(layers),
        }
        for site, choice in zip(run.sites, choices, strict=True):
            figures[figure_name(EFFECT, site.name)] = choice.effect**0.5
            figures[figure_name(TIME_SHARE, site.name)] = choice.time / time
        return figures

    def _prediction_error(self, layers: Sequence[LayerDecision]) -> float:
        run, error = self._run, 0.0
        for capture, weight in run.effect_weights().items():
            call = self._visits.recorded_call(capture)
            dense = prediction(run, call, {})
            planned = prediction(run, call, planned_sites(run, layers, capture.mask_bin))
            error += weight * squared(planned - dense) / max(squared(dense), 1e-300)
        return float(error**0.5)

    def _options(self, orders: NDArray[np.int32], layer: int, mask_bin: int) -> LayerOptions:
        run, scores = self._run, self._scores(layer)
        groups = grouped(run, scores, mask_bin, self.head_groups(layer))
        measured, ranges = self._store.arrays(_bits(layer)), self._ranges(layer)
        widths = {
            (product, bits): self._of_bits(
                measured,
                ranges,
                bits if product is Product.QK else 16,
                bits if product is Product.PV else 16,
            )
            for product, bits in tried_widths(run, layer)
        }
        dense = _all_blocks(scores)
        return LayerOptions(head_orders(run.candidates, orders), groups, dense, widths)

    def _of_bits(
        self,
        measured: Mapping[str, NDArray[Any]],
        ranges: Mapping[str, NDArray[Any]],
        qk_bits: int,
        pv_bits: int,
    ) -> QuantizationChoice:
        config = replace(attention_config(self._run.settings), qk_bits=qk_bits, pv_bits=pv_bits)
        return choose_quantization(measured, ranges, config, _ANY_ERROR)


def planned_sites(
    run: CalibrationRun, layers: Sequence[LayerDecision], mask_bin: int
) -> dict[str, Callable[..., Tensor]]:
    """The attention of every site by what was decided, by name."""
    return {
        site.name: planned_attention(
            head_orders(run.candidates, of.orders),
            of.masks,
            mask_bin,
            of.quantization,
            quantized_config(run.settings, of.quantization),
        )
        for site, of in zip(run.sites, layers, strict=True)
    }


def _level_name(level: float) -> str:
    return {1.0: "all", 0.0: "forced alone"}.get(level, f"{level:.3g}")


def _all_blocks(scores: LayerScores) -> LayerMasks:
    return describe_masks(scores, np.ones(scores.error.shape, dtype=bool))


def _bits(layer: int, _capture: Capture | None = None) -> str:
    return f"bits-{layer}"


def _effects(layer: int, _capture: Capture | None = None) -> str:
    return f"effects-{layer}"
