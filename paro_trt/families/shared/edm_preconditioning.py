"""Cosmos 1.0's diffusion seen as a flow: it was trained on x + sigma * noise, preconditioned as in
Karras et al., arXiv 2206.00364, where a flow has (1 - t) * x + t * noise."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

_NOISE_RANGE = (0.002, 80.0)
"""Levels that it was trained at."""

_DATA_DEVIATION = 0.5
"""Standard deviation of its latents."""


@dataclass(frozen=True)
class NoiseLevel:
    """Between a flow's latents and velocity and what goes into the model and comes out.

    Args:
        sigma: t / (1 - t), f32 [B].
    """

    sigma: Tensor

    @property
    def time(self) -> Tensor:
        """f32 [B], as the model takes it."""
        return 0.25 * self.sigma.log()

    @property
    def input_scale(self) -> Tensor:
        """f32 [B, 1, 1, 1, 1], from a flow's latents to the model's."""
        return _per_sample((1 + self.sigma) / self._deviation)

    @property
    def flow_time(self) -> Tensor:
        """f32 [B], 0..1, of the flow."""
        return self.sigma / (1 + self.sigma)

    def velocity(self, latents: Tensor, output: Tensor) -> Tensor:
        """noise - x of a flow's latents, from the model's output."""
        kept, learned = (scale.to(latents.dtype) for scale in self._parts())
        return kept * latents - learned * output

    def learned(self, latents: Tensor, velocity: Tensor) -> Tensor:
        """The model's output, from the velocity of a flow's latents."""
        kept, learned = self._parts()
        return (kept * latents - velocity) / learned

    def _parts(self) -> tuple[Tensor, Tensor]:
        """f32 [B, 1, 1, 1, 1] each: shares of latents and of the model's output in the velocity."""
        variance = _DATA_DEVIATION**2
        kept = (1 + self.sigma) * (self.sigma - variance) / self._deviation**2
        learned = (1 + self.sigma) * _DATA_DEVIATION / self._deviation
        return _per_sample(kept), _per_sample(learned)

    @property
    def _deviation(self) -> Tensor:
        return (self.sigma**2 + _DATA_DEVIATION**2).sqrt()


def noise_level(time: Tensor) -> NoiseLevel:
    """Of a flow's time f32 [B] in 0..1, within what the model was trained at."""
    return NoiseLevel((time / (1 - time)).clamp(*_NOISE_RANGE))


def noise_level_at(own_time: Tensor) -> NoiseLevel:
    """Of the time f32 [B] that the model takes."""
    return NoiseLevel((4 * own_time).exp())


def _per_sample(scale: Tensor) -> Tensor:
    return scale.view(-1, 1, 1, 1, 1)
