"""Calls from prompt embeddings: the transformer alone, sampled as its family samples."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from ..errors import ArgumentError
from ..families.base import Geometry, ModelFamily
from ..models.conditioning import complete_inputs
from ..models.denoise import Velocity, denoise_by, seeded_noise
from ..models.experts import joint_velocity
from ..models.load import LoadedModel
from ..models.prompts import Prompts
from ..models.schedules import Schedule, sampler_for, scheduler_config
from .calls import RecordedCall, one_sample, watched_calls
from .source import AllRecordedError, CallSource, OnStep


class EmbeddingsSource(CallSource):
    """Denoises latents of (frames, height, width) on embeddings that were made beforehand.

    Args:
        loaded: the transformer.
        prompts: its conditioning.
        latent_size: (frames, height, width) of the latents.
        schedule: of the runs.
        partner: the other of two experts, for its part of the runs.
        scheduler: config of the pipeline's scheduler, with its `_class_name`; None: the one that
            lies next to the transformer, if there is one.

    Raises:
        ArgumentError: no prompts, guidance without a negative prompt, an expert without its
            partner, a second guidance scale without a second expert, or a schedule out of range.
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
        scheduler: Mapping[str, Any] | None = None,
    ) -> None:
        if len(prompts) == 0:
            raise ArgumentError("prompts", expected="at least one", actual="none")
        _check_partner(loaded, partner)
        expert = loaded.expert
        self._guidance = schedule.guidance(None if expert is None else expert.boundary)
        family, config = loaded.family, loaded.config
        prompts = prompts.named(family.pipeline_names)
        self.loaded, self._prompts, self._schedule = loaded, prompts, schedule
        self._partner, self._latent_size = partner, latent_size
        self.models = [loaded.model] if partner is None else [loaded.model, partner.model]
        self.texts, self.steps = prompts.texts, schedule.count
        self.geometry = Geometry(
            family.grid(config, latent_size), family.text_layout(config, prompts.shapes())
        )
        self.device = next(loaded.model.parameters()).device
        if scheduler is None:
            scheduler = scheduler_config(loaded.path)
        self._sampler = sampler_for(family, schedule, scheduler, self.geometry.grid.tokens)
        self.timesteps = self._sampler.timesteps()
        scales = [self._guidance(timestep) for timestep in self.timesteps]
        self.forwards = tuple(1 if scale == 1.0 else 2 for scale in scales)
        self.guided = tuple(forwards == 2 for forwards in self.forwards)
        if max(self.forwards) == 2 and prompts.negative is None:
            raise ArgumentError(
                "guidance_scale",
                expected="1.0 when the prompt file holds no negative prompt",
                actual=", ".join(f"{scale:g}" for scale in sorted(set(scales))),
                remedy="the scale of this model is the tensor guidance of the prompt file"
                if "guidance" in prompts.tensors
                else "add negative_prompt_embeds to the prompt file",
            )
        served = [
            step
            for step, timestep in enumerate(self.timesteps)
            if expert is None or expert.serves(timestep)
        ]
        self.served = range(served[0], served[-1] + 1) if served else range(0)
        # Everything that may refuse does so before the first work is kept.
        for prompt in range(len(prompts)):
            self._conditioning(prompt)
            if (negative := prompts.negative_rows([prompt])) is not None:
                self._complete(negative)

    def record(
        self, prompt: int, seed: int, wanted: Collection[int], on_step: OnStep
    ) -> dict[int, RecordedCall]:
        """See `CallSource`."""
        loaded = self.loaded
        conditioning = self._conditioning(prompt)
        negative = self._prompts.negative_rows([prompt])
        unwanted = None if negative is None else self._complete(negative)
        calls: dict[int, RecordedCall] = {}
        step = 0

        def watch(_model: torch.nn.Module, arguments: Mapping[str, Any]) -> None:
            # A step's first call is that of the prompt; the negative prompt's follows.
            if step not in wanted:
                return
            timestep = self.timesteps[step]
            of = conditioning if step not in calls else unwanted
            assert of is not None
            existing = existing_tokens(loaded.family, self.geometry, of)
            length = None if existing is None else int(existing)
            call = RecordedCall(one_sample(arguments, batch=1), timestep, length)
            if step in calls:
                calls[step] = calls[step].guided_by(call, self._guidance(timestep))
                return
            calls[step] = call
            if step == max(wanted):
                raise AllRecordedError

        def next_step(index: int, _timestep: float, _latents: Tensor) -> None:
            nonlocal step
            step = index + 1
            on_step(step)

        shape = loaded.family.latent_shape(loaded.config, self.geometry)
        with suppress(AllRecordedError), watched_calls([loaded.model], watch):
            denoise_by(
                self._sampler.scheduler(),
                self._velocity(),
                seeded_noise((1, *shape), seed).to(self.device),
                conditioning,
                guidance=self._guidance,
                negative=unwanted,
                on_step=next_step,
            )
        return calls

    def fingerprint(self) -> dict[str, Any]:
        """See `CallSource`."""
        return {
            "latent size": list(self._latent_size),
            "schedule": vars(self._schedule),
            "scheduler": self._sampler.described(),
            "prompts": _digest(self._prompts.tensors, self._prompts.negative or {}),
        }

    def notes(self) -> tuple[str, ...]:
        """See `CallSource`."""
        return self._sampler.notes

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
