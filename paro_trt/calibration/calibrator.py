"""The whole of calibration: one dense run a prompt, passes over its captured steps, a plan."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..families.base import AttentionSite
from ..models.load import LoadedModel
from ..models.prompts import Prompts
from ..plan import ParoPlan, save_plan
from .assemble import LayerDecision, make_plan, mean_density
from .forecast import measure_forecast
from .fp16_guard import overflow_notes, peak_arrays, recorded_peaks
from .inputs import LayerInputs
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
from .select_order import choose_orders
from .settings import CalibrationSettings
from .work import Contribution, WorkDirectory

WORK_SUFFIX = ".work"
"""What the directory of unfinished work has behind the plan's name."""

_Learn: TypeAlias = Callable[[int, Capture, LayerInputs], Contribution]
_StateName: TypeAlias = Callable[[int, Capture], str]


def calibrate(
    loaded: LoadedModel,
    prompts: Prompts,
    latent_size: tuple[int, int, int],
    settings: CalibrationSettings,
    output: Path,
    *,
    heldout: Prompts | None = None,
    progress: Progress | None = None,
    partner: LoadedModel | None = None,
) -> ParoPlan:
    """Learn a plan for a model from runs of it, and save it.

    Unfinished work is kept in the directory `<output>.work` until the plan is saved; the same
    call resumes from there after an interruption.

    Args:
        loaded: the model; attention is analysed on the device it is on.
        prompts: to calibrate on, one dense denoising run each.
        latent_size: (frames, height, width) of the latents.
        settings: what to aim at, and how.
        output: the plan file; its directory must exist.
        heldout: prompts to measure the plan on, apart from `prompts`.
        progress: told of every finished run and capture; None shows nothing.
        partner: the other of two experts; it runs its part of the schedule and is not planned.

    Raises:
        ModelError: the model, its grid or its attention is unsupported.
        ArgumentError: prompts and settings do not fit, or `<output>.work` is of something else.
    """
    output = Path(output)
    run = CalibrationRun(loaded, prompts, latent_size, settings, partner)
    store = WorkDirectory(output.with_name(output.name + WORK_SUFFIX))
    calibrator = _Calibrator(run, store, progress or SilentProgress())
    if store.open(run.fingerprint()):
        calibrator.progress.note(f"resuming the unfinished work in {store.path}")
    layers = calibrator.decide()
    notes = [*_density_notes(settings, layers, run), *calibrator.notes()]
    forecast = measure_forecast(run, layers, heldout, calibrator.progress)
    plan = make_plan(run, layers, [*notes, *forecast.notes], forecast.measured)
    save_plan(plan, output)
    store.remove()
    return plan


class _Calibrator:
    """The passes, each of which reads what the one before left in the store."""

    def __init__(self, run: CalibrationRun, store: WorkDirectory, progress: Progress) -> None:
        self.run = run
        self.store = store
        self.progress = progress
        self.layers = range(len(run.sites))

    def decide(self) -> list[LayerDecision]:
        """Orders, masks and quantization of every layer."""
        self._record_trajectories()
        orders = self._choose_orders()
        self._score_blocks(orders)
        masks = self._choose_masks()
        quantization = self._choose_quantization(orders, masks)
        return [
            LayerDecision(
                orders[layer],
                masks[layer]._replace(
                    predicted_error=predicted_error(
                        self.store.arrays(_errors(layer)), quantization[layer].added_error
                    )
                ),
                quantization[layer],
            )
            for layer in self.layers
        ]

    def _record_trajectories(self) -> None:
        prompts = self.run.prompts_used
        missing = [prompt for prompt in prompts if not self.store.captures(_trajectory(prompt))]
        self.progress.start("dense runs", len(prompts), len(prompts) - len(missing))
        for prompt in missing:
            peaks: dict[str, float] = {}
            with recorded_peaks(self.run.loaded.model, peaks):
                latents = self.run.trajectory(prompt)
            arrays = {f"step{step}": tensor.numpy() for step, tensor in latents.items()}
            learned = Contribution(arrays, peak_arrays(peaks))
            self.store.add(_trajectory(prompt), "run", learned)
            self.progress.advance()

    def notes(self) -> list[str]:
        """What a person should know of the runs: the expert's share, layers near overflow."""
        runs = (self.store.arrays(_trajectory(prompt)) for prompt in self.run.prompts_used)
        notes = [*self.run.expert_notes(), *overflow_notes(runs)]
        for note in notes:
            self.progress.note(note)
        return notes

    def _choose_orders(self) -> list[NDArray[np.int32]]:
        run = self.run
        self._visit(
            "orders",
            run.order_captures(),
            _orders,
            lambda _layer, _capture, inputs: order_contribution(
                inputs, run.settings, run.candidates, run.forced
            ),
        )
        chosen = []
        for layer, site in enumerate(run.sites):
            arrays = self.store.arrays(_orders(layer))
            terms = arrays["terms"] / arrays["captures"]
            group = site.heads // site.kv_heads
            chosen.append(choose_orders(terms, run.settings.order_metric, group))
        return chosen

    def _score_blocks(self, orders: Sequence[NDArray[np.int32]]) -> None:
        run = self.run
        self._visit(
            "blocks",
            run.captures(),
            lambda layer, capture: _blocks(layer, capture.mask_bin),
            lambda layer, _capture, inputs: mask_contribution(
                inputs, run.settings, run.candidates, orders[layer]
            ),
        )

    def _choose_masks(self) -> list[LayerMasks]:
        settings = self.run.settings

        def choose(scores: Sequence[LayerScores]) -> tuple[LayerMasks, ...]:
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

    def _choose_quantization(
        self, orders: Sequence[NDArray[np.int32]], masks: Sequence[LayerMasks]
    ) -> list[QuantizationChoice]:
        run, config = self.run, attention_config(self.run.settings)
        ranges = [combined_ranges(self._block_states(layer)) for layer in self.layers]
        captures = [capture for capture in run.captures() if capture.prompt == 0]
        self._visit(
            "errors",
            captures,
            _errors,
            lambda layer, capture, inputs: error_contribution(
                inputs,
                run.settings,
                head_orders(run.candidates, orders[layer]),
                masks[layer].mask,
                ranges[layer],
                capture.mask_bin,
            ),
        )
        return [
            choose_quantization(
                self.store.arrays(_errors(layer)),
                ranges[layer],
                config,
                run.settings.int4_max_error,
            )
            for layer in self.layers
        ]

    def _visit(
        self, stage: str, captures: Sequence[Capture], state: _StateName, learn: _Learn
    ) -> None:
        """Run every capture that a layer still lacks and store what is learned from it."""
        lacking = {capture: self._lacking(capture, state) for capture in captures}
        todo = {capture: layers for capture, layers in lacking.items() if layers}
        self.progress.start(stage, len(captures), len(captures) - len(todo))
        for capture, layers in todo.items():
            self._visit_capture(capture, layers, state, learn)
            self.progress.advance()

    def _lacking(self, capture: Capture, state: _StateName) -> set[int]:
        return {
            layer
            for layer in self.layers
            if capture.name not in self.store.captures(state(layer, capture))
        }

    def _visit_capture(
        self, capture: Capture, layers: Collection[int], state: _StateName, learn: _Learn
    ) -> None:
        def consume(
            layer: int, site: AttentionSite, query: Tensor, key: Tensor, value: Tensor, scale: float
        ) -> None:
            if layer in layers:
                inputs = LayerInputs(
                    site, query, key, value, scale, self.run.key_length(capture.prompt)
                )
                inputs.check(self.run.tokens)
                self.store.add(state(layer, capture), capture.name, learn(layer, capture, inputs))

        latents = self.store.arrays(_trajectory(capture.prompt))[f"step{capture.step}"]
        self.run.run_capture(capture, torch.from_numpy(latents), consume)

    def _block_states(self, layer: int) -> list[dict[str, NDArray[Any]]]:
        bins = range(self.run.settings.bins)
        return [self.store.arrays(_blocks(layer, mask_bin)) for mask_bin in bins]

    def _scores(self, layer: int) -> LayerScores:
        return layer_scores(self._block_states(layer))


def _trajectory(prompt: int) -> str:
    return f"trajectory-{prompt}"


def _orders(layer: int, _capture: Capture | None = None) -> str:
    return f"orders-{layer}"


def _blocks(layer: int, mask_bin: int) -> str:
    return f"blocks-{layer}-bin{mask_bin}"


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
