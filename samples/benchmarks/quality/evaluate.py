"""Held-out runs: dense trajectories, attention errors along them, and videos under a policy."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from paro_trt.calibration.capture import dense_attention
from paro_trt.families.base import AttentionSite, Geometry
from paro_trt.models.denoise import OnStep, Velocity, denoise, sampling_timesteps, seeded_noise
from paro_trt.models.intercept import intercept_attention
from paro_trt.models.load import LoadedModel
from paro_trt.models.prompts import Prompts
from paro_trt.verification.metrics import psnr, ssim

from .attention import AttentionCall
from .policies import Policy

VIDEO_RANGE = 2.0
"""Largest minus smallest pixel."""


@dataclass(frozen=True)
class Sampling:
    """How videos are made.

    latent_size: (frames, height, width); probed_steps: steps at which attention is compared.
    """

    latent_size: tuple[int, int, int]
    steps: int = 20
    shift: float = 3.0
    guidance_scale: float = 2.0
    probed_steps: tuple[int, ...] = (1, 8, 16)


class Quality(NamedTuple):
    """Of one configuration. psnr, ssim: of each video; relative_l2: of each call and sample."""

    density: float
    psnr: list[float]
    ssim: list[float]
    relative_l2: list[float]

    @classmethod
    def merged(cls, parts: Sequence[Quality]) -> Quality:
        """Of all the parts' videos and calls."""
        return cls(
            statistics.fmean(part.density for part in parts),
            [value for part in parts for value in part.psnr],
            [value for part in parts for value in part.ssim],
            [value for part in parts for value in part.relative_l2],
        )


class HeldoutRuns:
    """Dense videos of held-out prompts from one seed, and attention on the way to them.

    Args:
        loaded: the model, in float32.
        prompts: not calibrated on.
        seed: of the noise.
        sampling: how.
    """

    def __init__(
        self, loaded: LoadedModel, prompts: Prompts, seed: int, sampling: Sampling
    ) -> None:
        self.loaded, self.prompts, self.sampling = loaded, prompts, sampling
        self.layers = {site.name: i for i, site in enumerate(loaded.family.sites(loaded.config))}
        self.geometry = Geometry(loaded.family.grid(loaded.config, sampling.latent_size))
        shape = loaded.family.latent_shape(loaded.config, self.geometry)
        self.noise = seeded_noise((len(prompts), *shape), seed)
        entering = {0: self.noise}
        self.dense = self._sample(
            loaded.velocity(self.geometry),
            lambda step, _, latents: entering.update({step + 1: latents}),
        )
        self.calls = [
            call for step in sampling.probed_steps for call in self._calls(entering[step], step)
        ]

    def videos(self, policy: Policy) -> tuple[Tensor, float]:
        """Videos [N, C, F, H, W] under a policy, and the mean density of its masks."""
        densities: list[float] = []

        def attend(call: AttentionCall) -> Tensor:
            output, density = policy.attend(call)
            densities.append(density)
            return output

        def velocity(
            latents: Tensor, timestep: Tensor, conditioning: Mapping[str, Tensor]
        ) -> Tensor:
            return self._velocity(latents, timestep, conditioning, attend)

        return self._sample(velocity), statistics.fmean(densities)

    def attention_errors(self, policy: Policy) -> list[float]:
        """Relative L2 distance from dense attention, of each recorded call and sample."""
        errors: list[float] = []
        for call, dense in self.calls:
            apart = (policy.attend(call)[0] - dense).flatten(1).norm(dim=1)
            errors += (apart / dense.flatten(1).norm(dim=1)).tolist()
        return errors

    def _calls(self, latents: Tensor, step: int) -> list[tuple[AttentionCall, Tensor]]:
        """The attention of every layer, and its dense output, where the latents enter a step."""
        calls: list[tuple[AttentionCall, Tensor]] = []

        def record(call: AttentionCall) -> Tensor:
            dense = dense_attention(call.query, call.key, call.value, call.scale)
            calls.append((call, dense))
            return dense

        timestep = sampling_timesteps(self.sampling.steps, self.sampling.shift)[step]
        self._velocity(
            latents,
            torch.full((len(latents),), timestep),
            self.prompts.tensors,
            record,
        )
        return calls

    def _sample(self, velocity: Velocity, on_step: OnStep | None = None) -> Tensor:
        return denoise(
            velocity,
            self.noise,
            self.prompts.tensors,
            steps=self.sampling.steps,
            shift=self.sampling.shift,
            guidance_scale=self.sampling.guidance_scale,
            negative=self.prompts.negative_rows(range(len(self.prompts))),
            on_step=on_step,
        )

    def _velocity(
        self,
        latents: Tensor,
        timestep: Tensor,
        conditioning: Mapping[str, Tensor],
        attend: Callable[[AttentionCall], Tensor],
    ) -> Tensor:
        """The model's velocity, its attention computed by `attend`."""
        loaded = self.loaded

        def handle(
            site: AttentionSite, query: Tensor, key: Tensor, value: Tensor, scale: float
        ) -> Tensor:
            layer = self.layers[site.name]
            return attend(AttentionCall(layer, float(timestep[0]), query, key, value, scale))

        sites = loaded.family.sites(loaded.config)
        with torch.no_grad(), intercept_attention(loaded.model, sites, handle):
            return loaded.velocity(self.geometry)(latents, timestep, conditioning)


def measure(policy: Policy, runs: HeldoutRuns) -> Quality:
    """Everything about one policy; videos are compared as they are shown, clamped to [-1, 1]."""
    videos, density = runs.videos(policy)
    pairs = [
        (video.clamp(-1, 1), dense.clamp(-1, 1))
        for video, dense in zip(videos.split(1), runs.dense.split(1), strict=True)
    ]
    return Quality(
        density,
        [psnr(video, dense, VIDEO_RANGE) for video, dense in pairs],
        [ssim(video, dense, VIDEO_RANGE) for video, dense in pairs],
        runs.attention_errors(policy),
    )
