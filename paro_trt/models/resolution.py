"""From pixels to latents: what a family's VAE makes of a video's or an image's size."""

from __future__ import annotations

from ..errors import ModelError
from ..families.base import Config, ModelFamily


def latent_size(
    family: ModelFamily, config: Config, frames: int, height: int, width: int
) -> tuple[int, int, int]:
    """(frames, height, width) of the latents of a video in pixels; an image has one frame.

    Raises:
        ModelError: a size is not on the VAE's grid; the message names the nearest that are.
    """
    time, *space = family.pixels_per_latent(config)
    sizes = [_exact("frames", frames - 1, time, 1) + 1]
    for axis, pixels, factor in zip(("height", "width"), (height, width), space, strict=True):
        sizes.append(_exact(axis, pixels, factor, 0))
    return sizes[0], sizes[1], sizes[2]


def _exact(axis: str, pixels: int, factor: int, first: int) -> int:
    """pixels / factor; `first` is added to sizes in messages: a video's first frame is alone."""
    if pixels < 0 or pixels % factor or (pixels == 0 and not first):
        below = max(pixels // factor, 0 if first else 1) * factor + first
        grid = f"{first} + a multiple of {factor}" if first else f"a multiple of {factor}"
        raise ModelError(
            axis,
            expected=f"{grid}, the VAE's grid",
            actual=str(pixels + first),
            remedy=f"use {below} or {below + factor}, the nearest",
        )
    return pixels // factor
