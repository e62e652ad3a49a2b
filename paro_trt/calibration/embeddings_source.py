"""Calls from prompt embeddings: the transformer alone, sampled as its family samples."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import ArgumentError
from ..families.base import Geometry, ModelFamily
from ..models.conditioning import complete_inputs
from ..models.denoise import Velocity, denoise, sampling_timesteps, seeded_noise
from ..models.experts import joint_velocity
from ..models.load import LoadedModel
from ..models.prompts import Prompts
from .calls import RecordedCall, one_sample, watched_calls
from .source import AllRecordedError, CallSource, OnStep


@dataclass(frozen=True)
class Schedule:
    """How embeddings are sampled.

    Args:
        steps: denoising steps.
        shift: the schedule's shift, as in FlowMatchEulerDiscreteScheduler.
        guidance_scale: 1 evaluates no negative prompt.
    """

    steps: int = 20
    shift: float = 3.0
    guidance_scale: float = 1.0


class EmbeddingsSource(CallSource):
    """Denoises latents of (frames, height, width) on embeddings that were made beforehand.

    Args:
        loaded: the transformer.
        prompts: its conditioning.
        latent_size: (frames, height, width) of the latents.
        schedule: of the runs.
        partner: the other of two experts, for its part of the runs.

    Raises:
        ArgumentError: no prompts, guidance without a negative prompt, an expert without its
            partner, or a schedule out of range.
        ModelError: the latents do not fit the model's patches, or the prompts' tensors are not
            those the model takes.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        prompts: Prompts,
        latent_size: tuple[int, int, int],
        schedule: Schedule,
        partner: LoadedModel | None = None,
    ) -> None:
        if len(prompts) == 0:
            raise ArgumentError("prompts", expected="at least one", actual="none")
        guided = schedule.guidance_scale != 1.0
        if guided and prompts.negative is None:
            raise ArgumentError(
                "guidance_scale",
                expected="1.0 when the prompt file holds no negative prompt",
                actual=str(schedule.guidance_scale),
                remedy="the scale of this model is the tensor guidance of the prompt file"
                if "guidance" in prompts.tensors
                else "add negative_prompt_embeds to the prompt file",
            )
        _check_partner(loaded, partner)
        family, config = loaded.family, loaded.config
        self.loaded, self._prompts, self._schedule = loaded, prompts, schedule
        self._partner, self._latent_size = partner, latent_size
        self.models = [loaded.model] if partner is None else [loaded.model, partner.model]
        self.texts, self.steps = prompts.texts, schedule.steps
        self.forwards = (2 if guided else 1,) * schedule.steps
        self.geometry = Geometry(
            family.grid(config, latent_size), family.text_layout(config, prompts.shapes())
        )
        self.device = next(loaded.model.parameters()).device
        self.timesteps = sampling_timesteps(schedule.steps, schedule.shift, family.sampling)
        expert = loaded.expert
        served = [
            step
            for step, timestep in enumerate(self.timesteps)
            if expert is None or expert.serves(timestep)
        ]
        self.served = range(served[0], served[-1] + 1) if served else range(0)
        # Everything that may refuse does so before the first work is kept.
        for prompt in range(len(prompts)):
            self._conditioning(prompt)

    def record(
        self, prompt: int, seed: int, wanted: Collection[int], on_step: OnStep
    ) -> dict[int, RecordedCall]:
        """See `CallSource`."""
        loaded, schedule = self.loaded, self._schedule
        conditioning = self._conditioning(prompt)
        existing = existing_tokens(loaded.family, self.geometry, conditioning)
        calls: dict[int, RecordedCall] = {}
        step = 0

        def watch(_model: torch.nn.Module, arguments: Mapping[str, Any]) -> None:
            # A step's first call is that of the prompt; the negative prompt's follows.
            if step in wanted and step not in calls:
                calls[step] = RecordedCall(
                    one_sample(arguments, batch=1),
                    self.timesteps[step],
                    None if existing is None else int(existing),
                )
                if step == max(wanted):
                    raise AllRecordedError

        def next_step(index: int, _timestep: float, _latents: Tensor) -> None:
            nonlocal step
            step = index + 1
            on_step(step)

        shape = loaded.family.latent_shape(loaded.config, self.geometry)
        negative = self._prompts.negative_rows([prompt])
        with suppress(AllRecordedError), watched_calls([loaded.model], watch):
            denoise(
                self._velocity(),
                seeded_noise((1, *shape), seed).to(self.device),
                conditioning,
                steps=schedule.steps,
                shift=schedule.shift,
                guidance_scale=schedule.guidance_scale,
                negative=None if negative is None else self._complete(negative),
                on_step=next_step,
                sampling=loaded.family.sampling,
            )
        return calls

    def fingerprint(self) -> dict[str, Any]:
        """See `CallSource`."""
        return {
            "latent size": list(self._latent_size),
            "schedule": vars(self._schedule),
            "prompts": _digest(self._prompts.tensors, self._prompts.negative or {}),
        }

    def _velocity(self) -> Velocity:
        own = self.loaded.velocity(self.geometry)
        if self.loaded.expert is None or self._partner is None:
            return own
        return joint_velocity(own, self.loaded.expert, self._partner.velocity(self.geometry))

    def _conditioning(self, prompt: int) -> dict[str, Tensor]:
        return self._complete(self._prompts.rows([prompt]))

    def _complete(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        spec = self.loaded.family.conditioning_spec(self.loaded.config, self.geometry)
        inputs = complete_inputs(spec, tensors, 1)
        return {name: tensor.to(self.device) for name, tensor in inputs.items()}


def existing_tokens(
    family: ModelFamily, geometry: Geometry, conditioning: Mapping[str, Tensor]
) -> Tensor | None:
    """int64 [B]: tokens of each sample that exist; None where text is never padded."""
    if not geometry.text.padded:
        return None
    return family.text_length(conditioning).long() + geometry.grid.tokens


def _check_partner(loaded: LoadedModel, partner: LoadedModel | None) -> None:
    expert = loaded.expert
    if (expert is None) is not (partner is None):
        raise ArgumentError(
            "partner",
            expected="the other expert" if expert else "none: the model has one transformer",
            actual="none" if expert else "a model",
            remedy="pass the pipeline's directory, which holds both experts" if expert else "",
        )


def _digest(*groups: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in (item for group in groups for item in sorted(group.items())):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()
