"""Calibration captures in memory, and block statistics of them, computed when asked for.

What `paro_trt.calibration` does pass by pass for one density and one metric, this does once for
all of them: the same captures and statistics serve every policy at every density.
"""

import itertools
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor

from paro_trt.calibration.capture import capture_attention
from paro_trt.calibration.inputs import LayerInputs
from paro_trt.calibration.orders import AXES
from paro_trt.calibration.run import CalibrationRun
from paro_trt.calibration.select_mask import LayerScores
from paro_trt.calibration.statistics import (
    BlockStatistics,
    Tiling,
    block_statistics,
    sampled_query_blocks,
)

AXIS_ORDERS = tuple(map("".join, itertools.permutations(AXES)))
"""The orders that the paper tries."""


class Captures:
    """Attention inputs of every layer at every captured step of dense runs.

    Args:
        run: model, calibration prompts and settings.
    """

    def __init__(self, run: CalibrationRun) -> None:
        self.run = run
        self.units = run.captures()
        self.layers: list[list[LayerInputs]] = [[] for _ in run.sites]
        source = run.source
        recordings = [
            source.record(prompt, run.settings.seed + prompt, run.recorded_steps(), lambda _: None)
            for prompt in run.prompts_used
        ]
        for unit in self.units:
            capture_attention(
                run.loaded,
                run.geometry,
                recordings[unit.prompt][unit.step],
                source.device,
                lambda layer, *inputs: self.layers[layer].append(LayerInputs(*inputs)),
            )
        self.sampled = lru_cache(maxsize=None)(self._sampled)
        self.whole = lru_cache(maxsize=None)(self._whole)

    @property
    def tiling(self) -> Tiling:
        """Block sizes."""
        return self.run.settings.tiling

    @cached_property
    def orders(self) -> tuple[Tensor, ...]:
        """The candidates' permutations, int64 [S] each."""
        return tuple(torch.from_numpy(c.permutation).long() for c in self.run.candidates)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The candidates' names."""
        return tuple(candidate.name for candidate in self.run.candidates)

    @cached_property
    def judged_blocks(self) -> tuple[int, ...]:
        """Query blocks that orders and windows are judged by."""
        return sampled_query_blocks(len(self.run.forced), self.run.settings.order_query_blocks)

    def judged_inputs(self, layer: int) -> list[LayerInputs]:
        """The captures that orders and windows are judged by."""
        judged = set(self.run.order_captures())
        pairs = zip(self.units, self.layers[layer], strict=True)
        return [inputs for unit, inputs in pairs if unit in judged]

    def _sampled(
        self, layer: int, head: int, candidate: int, pooled: bool
    ) -> list[BlockStatistics]:
        """Of some rows of the judged captures; with the paper's terms where it has them."""
        return [
            block_statistics(
                inputs.head(head),
                self.orders[candidate],
                self.tiling,
                pooled=pooled,
                query_blocks=self.judged_blocks,
                rows_per_block=self.run.settings.order_rows,
                paper=not pooled and self.names[candidate] in AXIS_ORDERS,
            )
            for inputs in self.judged_inputs(layer)
        ]

    def _whole(self, layer: int, head: int, candidate: int, pooled: bool) -> list[BlockStatistics]:
        """Of all query blocks, for each unit."""
        return [
            block_statistics(inputs.head(head), self.orders[candidate], self.tiling, pooled=pooled)
            for inputs in self.layers[layer]
        ]

    def scores(self, layer: int, chosen: np.ndarray, pooled: bool) -> LayerScores:
        """Scores of a layer whose heads use the candidates int32 [H] `chosen`."""
        of_heads = [self.whole(layer, head, int(c), pooled) for head, c in enumerate(chosen)]
        error, mass, energy = (
            [
                torch.stack([getattr(unit, name) for unit in of_unit])
                for of_unit in zip(*of_heads, strict=True)
            ]
            for name in ("error", "mass", "energy")
        )
        totals = [of_unit.sum() for of_unit in energy]
        return LayerScores(
            self._bin_means([part / total for part, total in zip(error, totals, strict=True)]),
            self._bin_means([part / self.run.tokens for part in mass]),
            self._bin_means(
                [part.sum(dim=1) / total for part, total in zip(energy, totals, strict=True)]
            ).astype(np.float64),
        )

    def _bin_means(self, of_units: list[Tensor]) -> np.ndarray:
        bins = [
            [
                part
                for unit, part in zip(self.units, of_units, strict=True)
                if unit.mask_bin == index
            ]
            for index in range(self.run.settings.bins)
        ]
        return torch.stack([torch.stack(parts).mean(dim=0) for parts in bins]).numpy()
