"""What one calibration works on: the model's grid and sites, its units of work, its identity."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import __version__
from ..errors import ArgumentError, ModelError
from ..models.base import AttentionSite
from ..models.conditioning import Prompts, text_conditioning
from ..models.denoise import sampling_timesteps, seeded_noise
from ..models.load import LoadedModel
from ..plan import Grid, TextLayout
from .capture import Consumer, capture, record_trajectory
from .orders import CandidateOrder, candidate_orders
from .select_mask import forced_blocks
from .settings import CalibrationSettings

_DIGEST_ELEMENTS = 256
"""Elements of each parameter that stand for it in the fingerprint: enough to tell fine-tunes of
one config apart without reading tens of gigabytes."""


class Unit(NamedTuple):
    """One prompt at one captured step, which lies in one bin of the schedule."""

    prompt: int
    step: int
    mask_bin: int

    @property
    def name(self) -> str:
        """Stands for the unit in stored work."""
        return f"prompt{self.prompt}-step{self.step}"


# eq=False: identity is what the cached properties hang on; models have no equality.
@dataclass(frozen=True, eq=False)
class CalibrationRun:
    """A model, prompts, latents of (frames, height, width) and settings that belong together.

    Raises:
        ArgumentError: no prompts, or guidance without a negative.
        ModelError: the latents do not fit the model's patches, or the model takes conditioning
            that a prompt file does not hold, or embeddings of another width.
    """

    loaded: LoadedModel
    prompts: Prompts
    latent_size: tuple[int, int, int]
    settings: CalibrationSettings

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
        self._conditioning(self.prompts.embeds[0])
        # Everything that may refuse does so before the first work is kept.
        self.loaded.family.grid(self.loaded.config, self.latent_size)

    @property
    def prompts_used(self) -> range:
        """Indices of the prompts that are run."""
        return range(len(self.prompts))[: self.settings.prompt_limit]

    @cached_property
    def grid(self) -> Grid:
        """Visual tokens."""
        return self.loaded.family.grid(self.loaded.config, self.latent_size)

    @cached_property
    def text(self) -> TextLayout:
        """Text among the visual tokens."""
        return self.loaded.family.text_layout(self.loaded.config)

    @property
    def tokens(self) -> int:
        """S."""
        return self.grid.tokens + self.text.count

    @cached_property
    def sites(self) -> tuple[AttentionSite, ...]:
        """The layers to plan."""
        return self.loaded.family.sites(self.loaded.model)

    @cached_property
    def candidates(self) -> tuple[CandidateOrder, ...]:
        """The orders to choose from."""
        return candidate_orders(self.grid, self.text, self.settings.candidate_orders)

    @cached_property
    def forced(self) -> NDArray[np.bool_]:
        """bool [NQ, NK]: blocks that every mask attends."""
        return forced_blocks(self.tokens, self.text, self.settings.tiling)

    @cached_property
    def timesteps(self) -> tuple[float, ...]:
        """Of each step, noisiest first."""
        return sampling_timesteps(self.settings.steps, self.settings.shift)

    def bin_boundaries(self) -> tuple[float, ...]:
        """Half-way between the last timestep of a bin and the first of the next."""
        starts = self.settings.bin_starts()[1:]
        return tuple((self.timesteps[start - 1] + self.timesteps[start]) / 2 for start in starts)

    def units(self) -> tuple[Unit, ...]:
        """Every captured step of every prompt."""
        return tuple(
            Unit(prompt, step, mask_bin)
            for prompt in self.prompts_used
            for mask_bin, steps in enumerate(self.settings.captured())
            for step in steps
        )

    def order_units(self) -> tuple[Unit, ...]:
        """The middle captured step of each bin, of every prompt: one order serves all steps, and
        trying every candidate is the dearest part of a calibration."""
        middles = {steps[len(steps) // 2] for steps in self.settings.captured()}
        return tuple(unit for unit in self.units() if unit.step in middles)

    def trajectory(self, prompt: int) -> dict[int, Tensor]:
        """Latents f32 [1, C, F, H, W] that enter each captured step of a dense run.

        Raises:
            ModelError: the run ends in NaN or infinity.
        """
        negative = self.prompts.negative
        recorded = record_trajectory(
            self.loaded,
            self.loaded.family.latent_shape(self.loaded.config, self.grid),
            self._conditioning(self.prompts.embeds[prompt]),
            None if negative is None else self._conditioning(negative),
            self.settings,
            self.settings.seed + prompt,
            {unit.step for unit in self.units()},
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

    def capture(self, unit: Unit, latents: Tensor, consumer: Consumer) -> None:
        """Show `consumer` the attention inputs of every site at one unit."""
        conditioning = self._conditioning(self.prompts.embeds[unit.prompt])
        capture(self.loaded, latents, self.timesteps[unit.step], conditioning, consumer)

    @torch.no_grad()
    def dense_forward(self) -> Tensor:
        """Velocity of the first prompt at the noisiest step, for timing."""
        shape = self.loaded.family.latent_shape(self.loaded.config, self.grid)
        device = next(self.loaded.model.parameters()).device
        latents = seeded_noise((1, *shape), self.settings.seed).to(device)
        timestep = torch.tensor([self.timesteps[0]], device=device)
        return self.loaded.velocity(latents, timestep, self._conditioning(self.prompts.embeds[0]))

    def fingerprint(self) -> dict[str, Any]:
        """JSON-ready facts that decide the result."""
        return {
            "tool version": __version__,
            "settings": asdict(self.settings),
            "model": asdict(self.loaded.identity),
            "weights": _weights_digest(self.loaded.model),
            "dtype": str(self.loaded.dtype),
            "latent size": list(self.latent_size),
            "prompts": _digest(self.prompts.embeds, self.prompts.negative),
        }

    def _conditioning(self, embedding: Tensor) -> Mapping[str, Tensor]:
        device = next(self.loaded.model.parameters()).device
        family, config = self.loaded.family, self.loaded.config
        return text_conditioning(family, config, embedding[None].to(device))


def _weights_digest(model: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        stride = max(1, parameter.numel() // _DIGEST_ELEMENTS)
        some = parameter.detach().reshape(-1)[::stride].float().cpu().numpy()
        digest.update(f"{name} {list(parameter.shape)} {parameter.dtype}".encode())
        digest.update(some.tobytes())
    return digest.hexdigest()


def _digest(*tensors: Tensor | None) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        if tensor is not None:
            digest.update(str(list(tensor.shape)).encode())
            digest.update(tensor.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()
