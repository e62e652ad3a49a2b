"""Denoising with the kind of schedule that a model was trained for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..errors import ArgumentError
from ..families.base import TIMESTEPS, Sampling

_COGVIDEOX_SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": TIMESTEPS,
    "prediction_type": "v_prediction",
    "clip_sample": False,
    "rescale_betas_zero_snr": True,
    "snr_shift_scale": 1.0,
    "timestep_spacing": "trailing",
}
"""scheduler_config.json of the released CogVideoX-5B."""

Velocity: TypeAlias = Callable[[Tensor, Tensor, Mapping[str, Tensor]], Tensor]
"""(latents [B, ...], timestep f32 [B], conditioning) -> prediction [B, ...], as `Sampling` says."""

Guidance: TypeAlias = Callable[[float], float]
"""The guidance scale at a timestep."""

OnStep: TypeAlias = Callable[[int, float, Tensor], None]
"""Called after each step with its index, its timestep and the latents it made."""


def seeded_noise(shape: tuple[int, ...], seed: int) -> Tensor:
    """Standard normal float32 noise, the same on every machine."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sampling_timesteps(
    steps: int, shift: float, sampling: Sampling = Sampling.FLOW
) -> tuple[float, ...]:
    """Timesteps, noisiest first, that `denoise` will visit."""
    return tuple(float(timestep) for timestep in _scheduler(steps, shift, sampling).timesteps)


def noised(clean: Tensor, noise: Tensor, timestep: Tensor, sampling: Sampling) -> Tensor:
    """What a sampling run of a clean sample would hold at timesteps f32 [B]; tensors [B, ...]."""
    if sampling is Sampling.FLOW:
        sigma = (timestep / TIMESTEPS).view(-1, *[1] * (clean.ndim - 1))
        return sigma * noise + (1 - sigma) * clean
    scheduler = _scheduler(1, 1.0, sampling)
    whole = timestep.round().long().clamp(0, TIMESTEPS - 1)
    mixed: Tensor = scheduler.add_noise(clean, noise, whole)
    return mixed


def denoise(
    velocity: Velocity,
    noise: Tensor,
    conditioning: Mapping[str, Tensor],
    *,
    steps: int,
    shift: float,
    guidance_scale: float = 1.0,
    negative: Mapping[str, Tensor] | None = None,
    on_step: OnStep | None = None,
    sampling: Sampling = Sampling.FLOW,
) -> Tensor:
    """From noise to data: for flow models dx/dsigma = velocity from sigma 1 to sigma 0.

    Args:
        velocity: eager model, ParoTransformer or session; all have this signature.
        noise: [B, ...], standard normal.
        conditioning: the model's conditioning inputs, batch B.
        steps: steps; each costs one velocity, two with guidance.
        shift: the schedule's shift, as in FlowMatchEulerDiscreteScheduler; of flow models.
        guidance_scale: as `guidance` of `denoise_by`.
        negative: conditioning of the negative prompt, batch B; needed for guidance.
        on_step: progress callback.
        sampling: what the prediction means: Euler steps for a flow, CogVideoX's DDIM for
            v-prediction.

    Returns:
        float32 latents [B, ...].

    Raises:
        ArgumentError: steps or shift out of range, or guidance without `negative`.
    """
    return denoise_by(
        _scheduler(steps, shift, sampling),
        velocity,
        noise,
        conditioning,
        guidance=lambda _timestep: guidance_scale,
        negative=negative,
        on_step=on_step,
    )


@torch.no_grad()
def denoise_by(
    scheduler: Any,
    velocity: Velocity,
    noise: Tensor,
    conditioning: Mapping[str, Tensor],
    *,
    guidance: Guidance,
    negative: Mapping[str, Tensor] | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """From noise to data by a diffusers scheduler; other arguments as of `denoise`.

    Args:
        scheduler: its timesteps are set, and no step was made.
        guidance: w in v = v_negative + w * (v - v_negative) (Ho and Salimans, arXiv 2207.12598); 1
            evaluates no negative.

    Raises:
        ArgumentError: guidance without `negative`.
    """
    timesteps = [float(timestep) for timestep in scheduler.timesteps]
    scales = [guidance(timestep) for timestep in timesteps]
    if negative is None and any(scale != 1.0 for scale in scales):
        raise ArgumentError(
            "guidance_scale",
            expected="1.0 when there is no negative prompt",
            actual=str(max(scales)),
            remedy="pass negative conditioning",
        )
    latents = noise.float()
    for index, (timestep, scale) in enumerate(zip(scheduler.timesteps, scales, strict=True)):
        batch_timestep = timestep.float().expand(latents.shape[0])
        estimate = velocity(latents, batch_timestep, conditioning).float()
        if scale != 1.0 and negative is not None:
            baseline = velocity(latents, batch_timestep, negative).float()
            estimate = baseline + scale * (estimate - baseline)
        latents = scheduler.step(estimate, timestep, latents, return_dict=False)[0]
        if on_step is not None:
            on_step(index, timesteps[index], latents)
    return latents


def family_scheduler(shift: float, sampling: Sampling) -> Any:
    """A diffusers scheduler for models of a kind, its timesteps not set.

    Args:
        shift: of flow models.
        sampling: the kind.
    """
    from diffusers import CogVideoXDDIMScheduler, FlowMatchEulerDiscreteScheduler

    if sampling is Sampling.FLOW:
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=TIMESTEPS, shift=shift)
    return CogVideoXDDIMScheduler(**_COGVIDEOX_SCHEDULE)


def _scheduler(steps: int, shift: float, sampling: Sampling) -> Any:
    if steps < 1:
        raise ArgumentError("steps", expected="at least 1", actual=str(steps))
    if not shift > 0:
        raise ArgumentError("shift", expected="a positive number", actual=str(shift))
    scheduler = family_scheduler(shift, sampling)
    scheduler.set_timesteps(steps)
    return scheduler
