"""Sampling of flow-matching models: plain Euler steps, whoever computes the velocity."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from ..errors import ArgumentError

TIMESTEPS = 1000
"""Timestep of pure noise; timesteps are sigma * TIMESTEPS."""

Velocity: TypeAlias = Callable[[Tensor, Tensor, Mapping[str, Tensor]], Tensor]
"""(latents [B, C, F, H, W], timestep f32 [B], conditioning) -> velocity [B, C, F, H, W]."""

OnStep: TypeAlias = Callable[[int, float, Tensor], None]
"""Called after each step with its index, its timestep and the latents it made."""


def seeded_noise(shape: tuple[int, ...], seed: int) -> Tensor:
    """Standard normal float32 noise, the same on every machine."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sampling_timesteps(steps: int, shift: float) -> tuple[float, ...]:
    """Timesteps, noisiest first, that `denoise` will visit."""
    return tuple(float(timestep) for timestep in _scheduler(steps, shift).timesteps)


@torch.no_grad()
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
) -> Tensor:
    """Integrate dx/dsigma = velocity from noise (sigma 1) to data (sigma 0).

    Args:
        velocity: eager model, ParoTransformer or session, all alike.
        noise: [B, C, F, H, W], standard normal.
        conditioning: the model's conditioning inputs, batch B.
        steps: Euler steps; each costs one velocity, two with guidance.
        shift: the schedule's shift, as in FlowMatchEulerDiscreteScheduler.
        guidance_scale: w in v = v_negative + w * (v - v_negative) (Ho and Salimans,
            arXiv 2207.12598); 1 evaluates no negative.
        negative: conditioning of the negative prompt, batch B; needed for guidance.
        on_step: progress callback.

    Returns:
        float32 latents [B, C, F, H, W].

    Raises:
        ArgumentError: steps or shift out of range, or guidance without `negative`.
    """
    guided = guidance_scale != 1.0
    if guided and negative is None:
        raise ArgumentError(
            "guidance_scale",
            expected="1.0 when there is no negative prompt",
            actual=str(guidance_scale),
            remedy="pass negative conditioning",
        )
    scheduler = _scheduler(steps, shift)
    latents = noise.float()
    for index, timestep in enumerate(scheduler.timesteps):
        batch_timestep = timestep.float().expand(latents.shape[0])
        estimate = velocity(latents, batch_timestep, conditioning).float()
        if guided and negative is not None:
            baseline = velocity(latents, batch_timestep, negative).float()
            estimate = baseline + guidance_scale * (estimate - baseline)
        latents = scheduler.step(estimate, timestep, latents, return_dict=False)[0]
        if on_step is not None:
            on_step(index, float(timestep), latents)
    return latents


def _scheduler(steps: int, shift: float):  # type: ignore[no-untyped-def]
    from diffusers import FlowMatchEulerDiscreteScheduler

    if steps < 1:
        raise ArgumentError("steps", expected="at least 1", actual=str(steps))
    if not shift > 0:
        raise ArgumentError("shift", expected="a positive number", actual=str(shift))
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=TIMESTEPS, shift=shift)
    scheduler.set_timesteps(steps)
    return scheduler
