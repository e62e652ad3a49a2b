"""What one calibration works on: sites, captures, candidate orders, its fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from .. import __version__
from ..errors import ArgumentError
from ..families.base import AttentionSite, Geometry
from ..models.experts import ExpertRole
from ..models.load import LoadedModel
from ..plan.limits import MAX_TIMESTEP
from .orders import CandidateOrder, candidate_orders
from .select_mask import Allocation, forced_blocks
from .settings import CalibrationSettings
from .source import CallSource

_DIGEST_ELEMENTS = 256
"""Elements of each parameter that stand for it in the fingerprint: enough to tell fine-tunes of
one config apart without reading tens of gigabytes."""

_LEAST_SIGNAL = 1e-3
"""Of a sample, where a scheduler's second timestep is still 1000."""


class Capture(NamedTuple):
    """One prompt at one captured step, which lies in one bin of the schedule."""

    prompt: int
    step: int
    mask_bin: int

    @property
    def name(self) -> str:
        """Identifies the capture in stored work."""
        return f"prompt{self.prompt}-step{self.step}"


# eq=False: identity is what the cached properties hang on; models have no equality.
@dataclass(frozen=True, eq=False)
class CalibrationRun:
    """A source of calls and settings that belong together.

    Raises:
        ArgumentError: the transformer serves too few steps of a run.
    """

    source: CallSource
    settings: CalibrationSettings

    def __post_init__(self) -> None:
        needed = self.settings.bins * self.settings.captured_steps
        served, steps = len(self.source.served), self.source.steps
        if served < needed:
            alone = served == steps
            raise ArgumentError(
                "steps",
                expected=f"at least bins x captured_steps = {needed}"
                + ("" if alone else " that the expert serves"),
                actual=str(steps) if alone else f"{served} of {steps}",
                remedy="use more steps, fewer bins or fewer captured steps"
                if served
                else "boundary_ratio leaves it nothing: calibrate the other transformer",
            )

    @property
    def loaded(self) -> LoadedModel:
        """The transformer that is planned."""
        return self.source.loaded

    @property
    def geometry(self) -> Geometry:
        """Tokens of a sample."""
        return self.source.geometry

    @property
    def tokens(self) -> int:
        """S."""
        return self.geometry.tokens

    @property
    def prompts_used(self) -> range:
        """Indices of the prompts that are run."""
        return range(len(self.source.texts))[: self.settings.prompt_limit]

    @cached_property
    def sites(self) -> tuple[AttentionSite, ...]:
        """The layers to plan."""
        return self.loaded.family.sites(self.loaded.config)

    @cached_property
    def candidates(self) -> tuple[CandidateOrder, ...]:
        """The orders to choose from."""
        return candidate_orders(
            self.geometry.grid, self.geometry.text, self.settings.candidate_orders
        )

    @cached_property
    def forced(self) -> NDArray[np.bool_]:
        """bool [NQ, NK]: blocks that every mask attends."""
        return forced_blocks(self.tokens, self.geometry.text, self.settings.tiling)

    @cached_property
    def captured_steps(self) -> tuple[tuple[int, ...], ...]:
        """The captured steps of each bin."""
        return self.settings.captured(self.source.served)

    def captures(self) -> tuple[Capture, ...]:
        """Every captured step of every prompt."""
        return self._captures(step for steps in self.captured_steps for step in steps)

    def trial_captures(self) -> tuple[Capture, ...]:
        """Under a cost, the captures that choose corrected heads and blocks of the run time: those
        of the last prompt, or of one prompt the last of each bin; none where each bin has one."""
        if not self.settings.mixes:
            return ()
        captures = self.captures()
        if len(self.prompts_used) > 1:
            return tuple(of for of in captures if of.prompt == self.prompts_used[-1])
        if self.settings.captured_steps == 1:
            return ()
        last = {steps[-1] for steps in self.captured_steps}
        return tuple(of for of in captures if of.step in last)

    def block_captures(self) -> tuple[Capture, ...]:
        """The captures that blocks are chosen by: all but those of the trials."""
        trials = self.trial_captures()
        return tuple(capture for capture in self.captures() if capture not in trials)

    def order_captures(self) -> tuple[Capture, ...]:
        """The middle captured step of each bin, of every prompt: one order serves all steps, and
        trying every candidate is the most expensive part of a calibration."""
        return self._captures(steps[len(steps) // 2] for steps in self.captured_steps)

    def error_captures(self) -> tuple[Capture, ...]:
        """Every captured step of the first prompt."""
        return tuple(capture for capture in self.captures() if capture.prompt == 0)

    def effect_captures(self) -> tuple[Capture, ...]:
        """The captures that effects on the prediction are measured on: in each bin as many as asked
        for. None unless effects are measured.

        Steps get captures in proportion to what the errors near them count, and the last prompts
        come first, which chose the fewest blocks.
        """
        settings = self.settings
        if settings.allocation is not Allocation.MEASURED:
            return ()
        chosen: list[Capture] = []
        for mask_bin, steps in enumerate(self.captured_steps):
            counted, prompts = self._counted(mask_bin, steps), self.prompts_used
            taken = dict.fromkeys(steps, 0)
            for _ in range(min(settings.effect_calls, len(steps) * len(prompts))):
                free = [step for step in steps if taken[step] < len(prompts)]
                step = max(free, key=lambda of: (counted[of] / (taken[of] + 1), -of))
                taken[step] += 1
                chosen.append(Capture(prompts[-taken[step]], step, mask_bin))
        return tuple(sorted(chosen))

    def effect_weights(self) -> dict[Capture, float]:
        """What a squared relative error of the prediction counts in each of `effect_captures`, of
        sum 1: a capture stands for the steps of its bin that it is nearest to, and shares them
        with other prompts' captures of its step."""
        captures, weights = self.effect_captures(), {}
        for mask_bin in range(self.settings.bins):
            of_bin = [capture for capture in captures if capture.mask_bin == mask_bin]
            counted = self._counted(mask_bin, sorted({capture.step for capture in of_bin}))
            for capture in of_bin:
                sharing = sum(of.step == capture.step for of in of_bin)
                weights[capture] = counted[capture.step] / sharing
        return weights

    def has_negative(self, step: int) -> bool:
        """Whether a captured step's call comes with that of the negative prompt, which effects
        then count as guidance does: not in the last step that is recorded."""
        return self.source.guided[step] and step != max(self.recorded_steps())

    def step_weights(self) -> NDArray[np.float64]:
        """f64 [steps], of sum 1 over the served steps and 0 elsewhere: what a squared relative
        error of the prediction counts in each step.

        With sigma = timestep / 1000, a step from sigma to sigma' moves the sample by the prediction
        times sigma - sigma', and the signal that it then holds is 1 - sigma' of it: errors are
        shares of that signal. The last step goes to 0.
        """
        sigmas = np.array([*self.source.timesteps, 0.0]) / MAX_TIMESTEP
        signal = np.maximum(1.0 - sigmas[1:], _LEAST_SIGNAL)
        of_steps = np.zeros(len(sigmas) - 1)
        served = slice(self.source.served.start, self.source.served.stop)
        of_steps[served] = np.square(np.diff(sigmas) / signal)[served]
        return np.asarray(of_steps / of_steps.sum())

    def _counted(self, mask_bin: int, steps: Sequence[int]) -> dict[int, float]:
        """The weights of a bin's steps, each to the nearest of `steps`, of two the earlier."""
        starts = *self.settings.bin_starts(self.source.served), self.source.served.stop
        weights, counted = self.step_weights(), dict.fromkeys(steps, 0.0)
        for step in range(starts[mask_bin], starts[mask_bin + 1]):
            counted[min(steps, key=lambda of: (abs(of - step), of))] += float(weights[step])
        return counted

    def bin_shares(self) -> NDArray[np.float64]:
        """f64 [T]: share of each bin in the served steps."""
        served = self.source.served
        starts = np.array([*self.settings.bin_starts(served), served.stop])
        return np.asarray(np.diff(starts) / len(served))

    def recorded_steps(self) -> tuple[int, ...]:
        """The steps whose calls a dense run records."""
        return tuple(step for steps in self.captured_steps for step in steps)

    def bin_boundaries(self) -> tuple[float, ...]:
        """Half-way between the last timestep of a bin and the first of the next."""
        timesteps = self.source.timesteps
        starts = self.settings.bin_starts(self.source.served)[1:]
        return tuple((timesteps[start - 1] + timesteps[start]) / 2 for start in starts)

    def frame_rate_notes(self) -> list[str]:
        """That the positions are of one frame rate, where they are in seconds."""
        rate = self.loaded.family.frame_rate(self.loaded.config)
        return [] if rate is None else [f"positions are those of {rate:g} frames a second"]

    def expert_notes(self) -> list[str]:
        """What of the schedule an expert was captured in."""
        expert = self.loaded.expert
        if expert is None:
            return []
        side = "at and above" if expert.role is ExpertRole.HIGH_NOISE else "below"
        return [
            f"expert {expert.role.value} serves timesteps {side} {expert.boundary:g}: "
            f"{len(self.source.served)} of {self.source.steps} steps, {len(self.captures())} "
            f"captures of {self.tokens} tokens in {self.settings.bins} bins, as many as its "
            "partner gets"
        ]

    def fingerprint(self) -> dict[str, Any]:
        """JSON-ready facts that decide the result."""
        return {
            "tool version": __version__,
            "settings": asdict(self.settings),
            "model": msgspec.to_builtins(self.loaded.identity),
            "weights": _weights_digest(self.loaded.model),
            "dtype": str(self.loaded.dtype),
            **self.source.fingerprint(),
        }

    def _captures(self, steps: Iterable[int]) -> tuple[Capture, ...]:
        bin_of = {step: index for index, of in enumerate(self.captured_steps) for step in of}
        wanted = tuple(steps)
        return tuple(
            Capture(prompt, step, bin_of[step]) for prompt in self.prompts_used for step in wanted
        )


def _weights_digest(model: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        stride = max(1, parameter.numel() // _DIGEST_ELEMENTS)
        some = parameter.detach().reshape(-1)[::stride].float().cpu().numpy()
        digest.update(f"{name} {list(parameter.shape)} {parameter.dtype}".encode())
        digest.update(some.tobytes())
    return digest.hexdigest()
