"""Sampling: the Euler schedule against its closed form, guidance, callbacks, refusals."""

import pytest
import torch

from paro_trt.errors import ArgumentError
from paro_trt.families.base import Sampling
from paro_trt.models.denoise import denoise, noised, sampling_timesteps, seeded_noise


def straight_to(target):
    """Velocity of the straight path from noise to `target`: (x - target) / sigma."""

    def velocity(latents, timestep, _conditioning):
        sigma = (timestep / 1000).view(-1, 1, 1, 1, 1)
        return (latents - target) / sigma

    return velocity


def test_straight_path_ends_at_its_target():
    noise = seeded_noise((2, 3, 2, 4, 4), seed=1)
    target = torch.randn(2, 3, 2, 4, 4) + 0.5
    for steps, shift in ((1, 1.0), (7, 3.0)):
        result = denoise(straight_to(target), noise, {}, steps=steps, shift=shift)
        torch.testing.assert_close(result, target, atol=1e-5, rtol=1e-5)


def kept_of_the_sample(timestep):
    """Share of the sample's variance at a timestep of CogVideoX: scaled-linear betas from 0.00085
    to 0.012, then rescaled so that the last timestep holds only noise."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    kept = (1 - betas).cumprod(0).sqrt()
    kept = (kept - kept[-1]) * kept[0] / (kept[0] - kept[-1])
    return kept[int(timestep)] ** 2


@pytest.mark.parametrize("steps", [1, 10])
def test_v_prediction_ends_at_its_target(steps):
    noise = seeded_noise((2, 3, 2, 4, 4), seed=1)
    target = torch.randn(2, 3, 2, 4, 4) + 0.5

    def v_prediction(latents, timestep, _conditioning):
        kept = kept_of_the_sample(timestep[0])
        # At the last timestep the latents are the noise; elsewhere it follows from the latents.
        return (kept.sqrt() * latents - target) / (1 - kept).sqrt()

    options = {"steps": steps, "shift": 1.0, "sampling": Sampling.V_PREDICTION}
    result = denoise(v_prediction, noise, {}, **options)
    torch.testing.assert_close(result, target, atol=1e-3, rtol=0)
    assert sampling_timesteps(steps, 1.0, Sampling.V_PREDICTION)[0] == 999.0


def test_noised_samples_of_a_v_prediction():
    clean, noise = torch.randn(3, 2, 4, 4) + 0.5, seeded_noise((3, 2, 4, 4), seed=1)
    timestep = torch.tensor([1000.0, 500.2, 0.0])
    mixed = noised(clean, noise, timestep, Sampling.V_PREDICTION)
    for row, whole in enumerate((999, 500, 0)):
        kept = kept_of_the_sample(whole)
        expected = kept.sqrt() * clean[row] + (1 - kept).sqrt() * noise[row]
        torch.testing.assert_close(mixed[row], expected.float(), atol=1e-5, rtol=1e-5)


def test_each_step_moves_by_velocity_times_the_sigma_difference():
    noise = seeded_noise((1, 1, 1, 2, 2), seed=2)
    seen = []

    def velocity(latents, timestep, _conditioning):
        seen.append(float(timestep))
        return torch.full_like(latents, 0.5) * timestep

    result = denoise(velocity, noise, {}, steps=4, shift=3.0)
    sigmas = [timestep / 1000 for timestep in seen] + [0.0]
    expected = noise + sum(0.5 * seen[i] * (sigmas[i + 1] - sigmas[i]) for i in range(len(seen)))
    torch.testing.assert_close(result, expected, atol=1e-3, rtol=1e-4)
    assert seen == list(sampling_timesteps(4, 3.0))
    assert seen[0] == 1000.0
    assert seen == sorted(seen, reverse=True)


def test_timesteps_are_float32_one_a_sample():
    def velocity(latents, timestep, _conditioning):
        assert timestep.dtype is torch.float32
        assert timestep.shape == (3,)
        return latents

    denoise(velocity, torch.ones(3, 1, 1, 2, 2), {}, steps=2, shift=1.0)


def test_guidance_extrapolates_from_the_negative():
    noise = torch.zeros(1, 1, 1, 1, 1)

    def velocity(latents, _timestep, conditioning):
        return conditioning["level"].expand_as(latents)

    levels = {"level": torch.tensor(3.0)}, {"level": torch.tensor(1.0)}
    result = denoise(
        velocity, noise, levels[0], steps=5, shift=2.0, guidance_scale=2.5, negative=levels[1]
    )
    torch.testing.assert_close(result, torch.full_like(noise, -(1 + 2.5 * 2)))
    plain = denoise(velocity, noise, levels[0], steps=5, shift=2.0, negative=levels[1])
    torch.testing.assert_close(plain, torch.full_like(noise, -3.0))


def test_callback_gets_every_step():
    steps = []
    result = denoise(
        lambda latents, *_: latents,
        torch.ones(1, 1, 1, 1, 1),
        {},
        steps=3,
        shift=1.0,
        on_step=lambda index, timestep, latents: steps.append((index, timestep, latents)),
    )
    assert [index for index, _, _ in steps] == [0, 1, 2]
    assert [timestep for _, timestep, _ in steps] == list(sampling_timesteps(3, 1.0))
    assert torch.equal(steps[-1][2], result)


def test_noise_depends_on_its_seed_alone():
    torch.manual_seed(0)
    first = seeded_noise((4, 5), seed=7)
    assert torch.equal(first, seeded_noise((4, 5), seed=7))
    assert not torch.equal(first, seeded_noise((4, 5), seed=8))
    assert first.dtype is torch.float32


@pytest.mark.parametrize(
    ("arguments", "subject"),
    [
        ({"steps": 0, "shift": 1.0}, "steps"),
        ({"steps": 2, "shift": 0.0}, "shift"),
        ({"steps": 2, "shift": float("nan")}, "shift"),
        ({"steps": 2, "shift": 1.0, "guidance_scale": 2.0}, "guidance_scale"),
    ],
)
def test_refusals(arguments, subject):
    with pytest.raises(ArgumentError, match=subject):
        denoise(lambda *_: torch.ones(1), torch.ones(1, 1, 1, 1, 1), {}, **arguments)
