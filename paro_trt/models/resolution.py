"""From pixels to latents: what a family's VAE makes of a video's or an image's size."""

from __future__ import annotations

from ..errors import ModelError
from ..families.base import Config, ModelFamily

LARGEST_PATCH = 4
"""Latents along an axis that one token may stand for."""


def latent_size(
    family: ModelFamily, config: Config, frames: int, height: int, width: int
) -> tuple[int, int, int]:
    """(frames, height, width) of the latents of a video in pixels; an image has one frame.

    Raises:
        ModelError: a size is not on the VAE's grid, or the patches of the model do not divide its
            latents; the message names the nearest sizes in pixels.
    """
    time, *space = family.pixels_per_latent(config)
    latents = _exact("frames", frames - 1, time, 1) + 1
    axes = tuple(zip(("height", "width"), (height, width), space, strict=True))
    patch = _patch(family, config, latents, [-(-pixels // factor) for _, pixels, factor in axes])
    plane = [_exact(axis, pixels, factor * patch, 0) * patch for axis, pixels, factor in axes]
    return latents, plane[0], plane[1]


def _patch(family: ModelFamily, config: Config, frames: int, plane: list[int]) -> int:
    """Latents that height and width have to be multiples of; 1 where other things, such as the
    model's positions, keep the size from fitting: the family says which when the grid is made."""
    for patch in range(1, LARGEST_PATCH + 1):
        height, width = (max(-(-size // patch), 1) * patch for size in plane)
        try:
            family.grid(config, (frames, height, width))
        except ModelError:
            continue
        return patch
    return 1


def _exact(axis: str, pixels: int, factor: int, first: int) -> int:
    """pixels / factor; `first` is added to sizes in messages: a video's first frame is alone."""
    if pixels < 0 or pixels % factor or (pixels == 0 and not first):
        below = max(pixels // factor, 0 if first else 1) * factor + first
        grid = f"{first} + a multiple of {factor}" if first else f"a multiple of {factor}"
        raise ModelError(
            axis,
            expected=f"{grid}, the grid of the VAE and of the model's patches",
            actual=str(pixels + first),
            remedy=f"use {below} or {below + factor}, the nearest",
        )
    return pixels // factor
