"""The whole of calibration: one dense run a prompt, passes over its recorded calls, a plan."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ParoError
from ..models.attention_backend import check_attention_function, native_attention
from ..plan import KeyCost, ParoPlan, load_plan, save_plan
from .allocate import check_budget
from .assemble import LayerDecision, make_plan, mean_density, total_cost
from .cost import cost_note
from .forecast import HELDOUT_PROMPTS, measure_forecast
from .fp16_guard import overflow_notes
from .measured import MeasuredAllocation
from .passes import (
    attention_config,
    combined_ranges,
    error_contribution,
    head_orders,
    layer_scores,
    mask_contribution,
    order_contribution,
    predicted_error,
)
from .progress import Progress, SilentProgress
from .quantize import QuantizationChoice, choose_quantization
from .run import CalibrationRun, Capture
from .select_mask import Allocation, LayerMasks, LayerScores, select_masks
from .select_mix import select_mixes
from .select_order import choose_orders
from .settings import CalibrationSettings
from .source import CallSource
from .trials import Alternative, trial_contribution, with_features
from .visits import Visits, run_state
from .work import WorkDirectory

WORK_SUFFIX = ".work"
"""What the directory of unfinished work has behind the plan's name."""


def calibrate(
    source: CallSource,
    settings: CalibrationSettings,
    output: Path,
    *,
    heldout: CallSource | None = None,
    progress: Progress | None = None,
    memory: int | None = None,
) -> ParoPlan:
    """Learn a plan for a model from runs of it, and save it.

    Unfinished work is kept in the directory `<output>.work` until the plan is saved; the same
    call resumes from there after an interruption. Several processes that make the same call share
    the work by prompt, and all return the same plan.

    Args:
        source: runs the dense model on the prompts to calibrate on; attention is analysed on the
            device where the model computes.
        settings: what to aim at, and how.
        output: the plan file; its directory must exist.
        heldout: runs the model on prompts to measure the plan on, apart from those of `source`.
        progress: told of every finished step and replay; None shows nothing.
        memory: bytes that the analysis may take in addition to the model; None: half of what is
            free on a GPU, a quarter of a gigabyte on a CPU.

    Raises:
        ModelError: the model, its grid or its attention is unsupported.
        ArgumentError: prompts and settings do not fit, or `<output>.work` is of something else.
    """
    output, started = Path(output), time.time()
    check_attention_function()
    run = CalibrationRun(source, settings)
    if settings.allocation is Allocation.MEASURED:
        check_budget(run)
    measured = None if heldout is None else _heldout_run(run, heldout)
    store = WorkDirectory(output.with_name(output.name + WORK_SUFFIX))
    calibrator = _Calibrator(run, store, progress or SilentProgress(), memory)
    if store.open(run.fingerprint()):
        calibrator.progress.note(f"resuming the unfinished work in {store.path}")
    for note in (cost_note(run, measured), *source.notes()):
        calibrator.progress.note(note)
    try:
        with native_attention(run.loaded.model):
            calibrator.prepare()
            with store.lock("finish", wait=True):
                if store.exists:
                    plan = calibrator.finish(measured)
                    save_plan(plan, output)
                    store.remove()
                    return plan
    except (OSError, ParoError, KeyError):
        # Whatever is missing in a directory that another process has removed.
        if store.exists or not output.exists() or output.stat().st_mtime < started:
            raise
    calibrator.progress.note(f"another process finished {output}")
    # Waiting for the lock has made the directory anew.
    store.remove()
    return load_plan(output)


def _heldout_run(run: CalibrationRun, heldout: CallSource) -> CalibrationRun:
    """Other noise than any calibration prompt had."""
    settings = replace(
        run.settings,
        seed=run.settings.seed + len(run.source.texts),
        prompt_limit=HELDOUT_PROMPTS,
    )
    return CalibrationRun(heldout, settings)


class _Calibrator:
    """The passes, each of which reads what the one before left in the store."""

    def __init__(
        self, run: CalibrationRun, store: WorkDirectory, progress: Progress, memory: int | None
    ) -> None:
        self.run = run
        self.store = store
        self.progress = progress
        self.memory = memory
        self.visits = Visits(run, store, progress)
        self.layers = range(len(run.sites))
        self.allocation = (
            MeasuredAllocation(run, store, self.visits, self._scores, self._ranges)
            if run.settings.allocation is Allocation.MEASURED
            else None
        )

    def prepare(self) -> None:
        """Everything that processes share: runs and replays, and what is learned from them."""
        self.visits.record()
        self._compare_orders()
        orders = self._orders()
        self._score_blocks(orders)
        if self.allocation is not None:
            self.allocation.measure(orders)
        self._try_features(orders)
        self._measure_errors(orders, self._masks())

    def finish(self, heldout: CalibrationRun | None) -> ParoPlan:
        """The plan, from what `prepare` stored."""
        layers = self._decisions()
        notes = [
            *_density_notes(self.run.settings, layers, self.run),
            *_cost_notes(self.run, layers),
            *self._notes(),
        ]
        example = self.visits.recorded_call(self.run.captures()[0])
        forecast = measure_forecast(self.run, layers, heldout, example, self.progress)
        effects = {} if self.allocation is None else self.allocation.figures(layers)
        measured = {**forecast.measured, **effects}
        return make_plan(self.run, layers, [*notes, *forecast.notes], measured)

    def _decisions(self) -> list[LayerDecision]:
        orders, masks = self._orders(), self._masks()
        decisions = []
        for layer in self.layers:
            measured = self.store.arrays(_errors(layer))
            quantization = self._quantization(layer, measured)
            error = predicted_error(measured, quantization.added_error)
            of_layer = masks[layer]._replace(predicted_error=error)
            decisions.append(LayerDecision(orders[layer], of_layer, quantization))
        return decisions

    def _notes(self) -> list[str]:
        """What a person should know of the runs: the expert's share, layers near overflow."""
        runs = (self.store.arrays(run_state(prompt)) for prompt in self.run.prompts_used)
        run = self.run
        found = [*run.frame_rate_notes(), *run.expert_notes(), *overflow_notes(runs)]
        for note in found:
            self.progress.note(note)
        # Those of the source were told at the start.
        return [*run.source.notes(), *found]

    def _compare_orders(self) -> None:
        run = self.run
        self.visits.visit(
            "orders",
            run.order_captures(),
            _orders,
            lambda _layer, _capture, inputs: order_contribution(
                inputs, run.settings, run.candidates, run.forced, self.memory
            ),
        )

    def _orders(self) -> list[NDArray[np.int32]]:
        chosen = []
        for layer, site in enumerate(self.run.sites):
            arrays = self.store.arrays(_orders(layer))
            terms = arrays["terms"] / arrays["captures"]
            group = site.heads // site.kv_heads
            chosen.append(choose_orders(terms, self.run.settings.order_metric, group))
        return chosen

    def _score_blocks(self, orders: Sequence[NDArray[np.int32]]) -> None:
        run = self.run
        self.visits.visit(
            "blocks",
            run.block_captures(),
            lambda layer, capture: _blocks(layer, capture.mask_bin),
            lambda layer, _capture, inputs: mask_contribution(
                inputs, run.settings, run.candidates, orders[layer], self.memory
            ),
        )

    def _masks(self) -> list[LayerMasks]:
        """What is decided of every layer's blocks."""
        masks = self._blocks_alone()
        if not self.run.trial_captures():
            return masks
        return [
            with_features(
                self._scores(layer),
                masks[layer],
                self._alternative(layer, masks[layer]),
                self.store.arrays(_trials(layer)),
            )
            for layer in self.layers
        ]

    def _blocks_alone(self) -> list[LayerMasks]:
        """Exact, fine and coarse blocks, before anything is tried on held-out captures."""
        settings = self.run.settings
        if self.allocation is not None:
            return [self.allocation.masks(layer) for layer in self.layers]

        def choose(scores: Sequence[LayerScores]) -> tuple[LayerMasks, ...]:
            if settings.cost is not None:
                return select_mixes(
                    scores,
                    self.run.forced,
                    settings.cost,
                    self.run.tokens,
                    settings.block_k,
                    settings.allocation,
                )
            return select_masks(
                scores,
                self.run.forced,
                settings.target,
                settings.mask_metric,
                settings.allocation,
            )

        if settings.allocation is Allocation.MODEL:
            return list(choose([self._scores(layer) for layer in self.layers]))
        # One layer at a time: the scores of a long video's layer take hundreds of megabytes.
        return [choose([self._scores(layer)])[0] for layer in self.layers]

    def _alternative(self, layer: int, masks: LayerMasks) -> Alternative:
        settings, heads = self.run.settings, self.run.sites[layer].heads
        cost = KeyCost(self.run.tokens, settings.block_q, settings.block_k)
        payers: Sequence[NDArray[np.int64]] | None = None
        if self.allocation is not None:
            payers = self.allocation.head_groups(layer)
        elif settings.allocation is Allocation.HEAD:
            payers = np.split(np.arange(heads), heads)
        return Alternative(self._scores(layer), masks, self.run.forced, cost, payers)

    def _try_features(self, orders: Sequence[NDArray[np.int32]]) -> None:
        run = self.run
        if not run.trial_captures():
            return
        masks = self._blocks_alone()
        self.visits.visit(
            "trials",
            run.trial_captures(),
            _trials,
            lambda layer, capture, inputs: trial_contribution(
                inputs,
                run.settings,
                head_orders(run.candidates, orders[layer]),
                masks[layer],
                self._alternative(layer, masks[layer]),
                capture.mask_bin,
            ),
        )

    def _measure_errors(
        self, orders: Sequence[NDArray[np.int32]], masks: Sequence[LayerMasks]
    ) -> None:
        run = self.run
        ranges = [self._ranges(layer) for layer in self.layers]
        self.visits.visit(
            "errors",
            run.error_captures(),
            _errors,
            lambda layer, capture, inputs: error_contribution(
                inputs,
                run.settings,
                head_orders(run.candidates, orders[layer]),
                masks[layer],
                ranges[layer],
                capture.mask_bin,
            ),
        )

    def _quantization(self, layer: int, measured: dict[str, NDArray[Any]]) -> QuantizationChoice:
        if self.allocation is not None:
            return self.allocation.quantization(layer, measured)
        settings = self.run.settings
        config = attention_config(settings)
        return choose_quantization(measured, self._ranges(layer), config, settings.int4_max_error)

    def _ranges(self, layer: int) -> dict[str, NDArray[Any]]:
        return combined_ranges(self._block_states(layer))

    def _block_states(self, layer: int) -> list[dict[str, NDArray[Any]]]:
        bins = range(self.run.settings.bins)
        return [self.store.arrays(_blocks(layer, mask_bin)) for mask_bin in bins]

    def _scores(self, layer: int) -> LayerScores:
        return layer_scores(self._block_states(layer))


def _orders(layer: int, _capture: Capture | None = None) -> str:
    return f"orders-{layer}"


def _blocks(layer: int, mask_bin: int) -> str:
    return f"blocks-{layer}-bin{mask_bin}"


def _trials(layer: int, _capture: Capture | None = None) -> str:
    return f"trials-{layer}"


def _errors(layer: int, _capture: Capture | None = None) -> str:
    return f"errors-{layer}"


def _density_notes(
    settings: CalibrationSettings, layers: Sequence[LayerDecision], run: CalibrationRun
) -> list[str]:
    reached = mean_density(layers)
    if settings.density is None or reached <= settings.density + 1e-9:
        return []
    return [
        f"density {reached:.3f} instead of {settings.density:.3f}: blocks on the diagonal and of "
        f"text are always attended and alone take {run.forced.mean():.3f}"
    ]


def _cost_notes(run: CalibrationRun, layers: Sequence[LayerDecision]) -> list[str]:
    """What a person should know of a plan that was made at a cost."""
    if not run.settings.mixes:
        return []
    asked, notes = run.settings.cost, []
    reached = total_cost(run, layers)
    if (
        asked is not None
        and run.settings.allocation is not Allocation.MEASURED
        and reached > asked + 1e-9
    ):
        notes.append(
            f"cost {reached:.3f} instead of {asked:.3f}: blocks on the diagonal and of text are "
            f"always exact and alone take {run.forced.mean():.3f} of all blocks"
        )
    if not run.trial_captures():
        notes.append(
            "one prompt and one captured step a bin: nothing was left to try corrected heads and "
            "blocks of the run time on, and the plan has none"
        )
    corrected = sum(
        int(layer.masks.corrected_heads.sum())
        for layer in layers
        if layer.masks.corrected_heads is not None
    )
    if corrected:
        notes.append(
            f"{corrected} of {sum(site.heads for site in run.sites)} heads are corrected: one "
            "dense query for each 128, which the cost counts"
        )
    return notes
