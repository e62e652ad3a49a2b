"""What one calibration works on: the model's grid and sites, its captures, its fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import __version__
from ..errors import ArgumentError, ModelError
from ..families.base import AttentionSite, Geometry
from ..models.conditioning import complete_inputs
from ..models.denoise import Velocity, sampling_timesteps, seeded_noise
from ..models.experts import ExpertRole, joint_velocity
from ..models.load import LoadedModel
from ..models.prompts import Prompts
from .capture import Consumer, capture_attention, existing_tokens, record_trajectory
from .orders import CandidateOrder, candidate_orders
from .select_mask import forced_blocks
from .settings import CalibrationSettings

_DIGEST_ELEMENTS = 256
"""Elements of each parameter that stand for it in the fingerprint: enough to tell fine-tunes of
one config apart without reading tens of gigabytes."""


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
    """A model, prompts, latents of (frames, height, width) and settings that belong together.

    partner: the other of two experts, for its part of the dense runs.

    Raises:
        ArgumentError: no prompts, guidance without a negative, an expert without its partner, or
            one that serves too few steps.
        ModelError: the latents do not fit the model's patches, or the prompts' tensors are not
            those the model takes.
    """

    loaded: LoadedModel
    prompts: Prompts
    latent_size: tuple[int, int, int]
    settings: CalibrationSettings
    partner: LoadedModel | None = None

    def __post_init__(self) -> None:
        if len(self.prompts) == 0:
            raise ArgumentError("prompts", expected="at least one", actual="none")
        if self.settings.guidance_scale != 1.0 and self.prompts.negative is None:
            raise ArgumentError(
                "guidance_scale",
                expected="1.0 when the prompt file holds no negative prompt",
                actual=str(self.settings.guidance_scale),
                remedy="add negative_prompt_embeds to the prompt file",
            )
        # Everything that may refuse does so before the first work is kept.
        self._check_experts()
        for prompt in self.prompts_used:
            self._conditioning(prompt)

    def _check_experts(self) -> None:
        expert, partner = self.loaded.expert, self.partner
        if (expert is None) is not (partner is None):
            raise ArgumentError(
                "partner",
                expected="the other expert" if expert else "none: the model has one transformer",
                actual="none" if expert else "a model",
                remedy="pass the pipeline's directory, which holds both experts" if expert else "",
            )
        needed = self.settings.bins * self.settings.captured_steps
        if len(self.served_steps) < needed:
            raise ArgumentError(
                "steps",
                expected=f"at least bins x captured_steps = {needed} that the expert serves",
                actual=f"{len(self.served_steps)} of {self.settings.steps}",
                remedy="use more steps, fewer bins or fewer captured steps",
            )

    @property
    def prompts_used(self) -> range:
        """Indices of the prompts that are run."""
        return range(len(self.prompts))[: self.settings.prompt_limit]

    @cached_property
    def geometry(self) -> Geometry:
        """Tokens of a sample: the latents' grid and the prompts' text."""
        family, config = self.loaded.family, self.loaded.config
        grid = family.grid(config, self.latent_size)
        return Geometry(grid, family.text_layout(config, self.prompts.shapes()))

    @property
    def tokens(self) -> int:
        """S."""
        return self.geometry.tokens

    @cached_property
    def sites(self) -> tuple[AttentionSite, ...]:
        """The layers to plan."""
        return self.loaded.family.sites(self.loaded.config)

    @cached_property
    def served_steps(self) -> range:
        """Steps of the run that the model serves: all, or an expert's."""
        expert = self.loaded.expert
        served = [
            step
            for step, timestep in enumerate(self.timesteps)
            if expert is None or expert.serves(timestep)
        ]
        return range(served[0], served[-1] + 1) if served else range(0)

    def expert_notes(self) -> list[str]:
        """What of the schedule an expert was captured in."""
        expert = self.loaded.expert
        if expert is None:
            return []
        side = "at and above" if expert.role is ExpertRole.HIGH_NOISE else "below"
        captures = self.captures()
        return [
            f"expert {expert.role.value} serves timesteps {side} {expert.boundary:g}: "
            f"{len(self.served_steps)} of {self.settings.steps} steps, {len(captures)} captures of "
            f"{self.tokens} tokens in {self.settings.bins} bins, as many as its partner gets"
        ]

    def existing_tokens(self, prompt: int) -> Tensor | None:
        """int64 [1]: tokens of a prompt's sequence that exist; None where text is never padded."""
        return existing_tokens(self.loaded.family, self.geometry, self._conditioning(prompt))

    def key_length(self, prompt: int) -> int | None:
        """The same as a number."""
        existing = self.existing_tokens(prompt)
        return None if existing is None else int(existing)

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
    def timesteps(self) -> tuple[float, ...]:
        """Of each step, noisiest first."""
        sampling = self.loaded.family.sampling
        return sampling_timesteps(self.settings.steps, self.settings.shift, sampling)

    def bin_boundaries(self) -> tuple[float, ...]:
        """Half-way between the last timestep of a bin and the first of the next."""
        starts = self.settings.bin_starts(self.served_steps)[1:]
        return tuple((self.timesteps[start - 1] + self.timesteps[start]) / 2 for start in starts)

    def captures(self) -> tuple[Capture, ...]:
        """Every captured step of every prompt."""
        return tuple(
            Capture(prompt, step, mask_bin)
            for prompt in self.prompts_used
            for mask_bin, steps in enumerate(self.settings.captured(self.served_steps))
            for step in steps
        )

    def order_captures(self) -> tuple[Capture, ...]:
        """The middle captured step of each bin, of every prompt: one order serves all steps, and
        trying every candidate is the most expensive part of a calibration."""
        middles = {steps[len(steps) // 2] for steps in self.settings.captured(self.served_steps)}
        return tuple(capture for capture in self.captures() if capture.step in middles)

    def trajectory(self, prompt: int) -> dict[int, Tensor]:
        """Latents f32 [1, C, F, H, W] that enter each captured step of a dense run.

        Raises:
            ModelError: the run ends in NaN or infinity.
        """
        recorded = record_trajectory(
            self.loaded,
            self.geometry,
            self._conditioning(prompt),
            self._negative(prompt),
            self.settings,
            self.settings.seed + prompt,
            {capture.step for capture in self.captures()},
            self._velocity(),
        )
        for step, latents in recorded.items():
            if not bool(latents.isfinite().all()):
                raise ModelError(
                    f"latents of the dense run at step {step}",
                    expected="finite values",
                    actual="NaN or infinity",
                    remedy="check the weights, or load the model in float32",
                )
        return recorded

    def run_capture(self, capture: Capture, latents: Tensor, consumer: Consumer) -> None:
        """Show `consumer` the attention inputs of every site in one capture."""
        conditioning = self._conditioning(capture.prompt)
        timestep = self.timesteps[capture.step]
        capture_attention(self.loaded, self.geometry, latents, timestep, conditioning, consumer)

    @torch.no_grad()
    def dense_forward(self) -> Tensor:
        """Velocity of the first prompt at the first step served, for timing."""
        shape = self.loaded.family.latent_shape(self.loaded.config, self.geometry)
        device = next(self.loaded.model.parameters()).device
        latents = seeded_noise((1, *shape), self.settings.seed).to(device)
        timestep = torch.tensor([self.timesteps[self.served_steps.start]], device=device)
        velocity = self.loaded.velocity(self.geometry)
        return velocity(latents, timestep, self._conditioning(0))

    def fingerprint(self) -> dict[str, Any]:
        """JSON-ready facts that decide the result."""
        return {
            "tool version": __version__,
            "settings": asdict(self.settings),
            "model": msgspec.to_builtins(self.loaded.identity),
            "weights": _weights_digest(self.loaded.model),
            "dtype": str(self.loaded.dtype),
            "latent size": list(self.latent_size),
            "prompts": _digest(self.prompts.tensors, self.prompts.negative or {}),
        }

    def _velocity(self) -> Velocity:
        own = self.loaded.velocity(self.geometry)
        if self.loaded.expert is None or self.partner is None:
            return own
        return joint_velocity(own, self.loaded.expert, self.partner.velocity(self.geometry))

    def _conditioning(self, prompt: int) -> dict[str, Tensor]:
        return self._complete(self.prompts.rows([prompt]))

    def _negative(self, prompt: int) -> dict[str, Tensor] | None:
        negative = self.prompts.negative_rows([prompt])
        return None if negative is None else self._complete(negative)

    def _complete(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        device = next(self.loaded.model.parameters()).device
        spec = self.loaded.family.conditioning_spec(self.loaded.config, self.geometry)
        inputs = complete_inputs(spec, tensors, 1)
        return {name: tensor.to(device) for name, tensor in inputs.items()}


def _weights_digest(model: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        stride = max(1, parameter.numel() // _DIGEST_ELEMENTS)
        some = parameter.detach().reshape(-1)[::stride].float().cpu().numpy()
        digest.update(f"{name} {list(parameter.shape)} {parameter.dtype}".encode())
        digest.update(some.tobytes())
    return digest.hexdigest()


def _digest(*groups: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in (item for group in groups for item in sorted(group.items())):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()
