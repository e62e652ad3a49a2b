"""Sizes in pixels that fit a model: of a plan's grid, and the nearest that needs no rounding."""

from __future__ import annotations

import itertools
import math
from typing import TypeAlias

from ..errors import ModelError
from ..families.base import Config, ModelFamily
from ..models.resolution import LARGEST_PATCH
from ..plan import Grid

Size: TypeAlias = tuple[int, int, int]
"""(frames, height, width) in pixels; an image has one frame."""


def size_of_grid(family: ModelFamily, config: Config, grid: Grid) -> Size:
    """The size of the video or image that a token grid is of.

    Raises:
        ModelError: no size of the family's has that grid.
    """
    return _pixels(family, config, latents_of_grid(family, config, grid))


def latents_of_grid(family: ModelFamily, config: Config, grid: Grid) -> Size:
    """(frames, height, width) of the latents that a token grid is of.

    Raises:
        ModelError: no latents of the family's have that grid.
    """
    tokens = (grid.frames, grid.height, grid.width)
    for patch in itertools.product(range(1, LARGEST_PATCH + 1), repeat=3):
        latents = tuple(count * step for count, step in zip(tokens, patch, strict=True))
        if _grid_of(family, config, latents) == grid:  # type: ignore[arg-type]
            return latents  # type: ignore[return-value]
    raise ModelError(
        "the grid", expected=f"one of the family {family.name}", actual=str(grid),
        remedy="give the size, with --video or --size",
    )  # fmt: skip


def nearest_size(family: ModelFamily, config: Config, size: Size) -> Size:
    """The nearest size that the pipeline need not round; of two, the smaller.

    Frames have to suit the VAE alone: pipelines pad what their patches need.

    Raises:
        ModelError: the model has no size near this one.
    """
    time, *_ = family.pixels_per_latent(config)
    exact = [
        pixels / factor
        for pixels, factor in zip(
            (size[0] - 1 + time, *size[1:]), family.pixels_per_latent(config), strict=True
        )
    ]
    frames = max(1, math.ceil(exact[0] - 0.5))
    near = [range(max(1, int(count) - LARGEST_PATCH), int(count) + LARGEST_PATCH + 1)
            for count in exact[1:]]  # fmt: skip
    for height, width in sorted(
        itertools.product(*near),
        key=lambda pair: (abs(pair[0] - exact[1]) + abs(pair[1] - exact[2]), pair),
    ):
        if _padded_grid(family, config, (frames, height, width)) is not None:
            return _pixels(family, config, (frames, height, width))
    family.grid(config, (frames, max(1, int(exact[1])), max(1, int(exact[2]))))
    raise ModelError("the size", expected="one that the model has", actual=str(size))


def grid_of_size(family: ModelFamily, config: Config, size: Size) -> Grid | None:
    """The token grid of a size that `nearest_size` returned."""
    time, height, width = family.pixels_per_latent(config)
    latents = 1 + (size[0] - 1) // time, size[1] // height, size[2] // width
    return _padded_grid(family, config, latents)


def _padded_grid(family: ModelFamily, config: Config, latents: Size) -> Grid | None:
    """The grid after the pipeline has padded the frames to its patches."""
    frames, height, width = latents
    padded = (
        _grid_of(family, config, (frames + extra, height, width)) for extra in range(LARGEST_PATCH)
    )
    return next((grid for grid in padded if grid is not None), None)


def _grid_of(family: ModelFamily, config: Config, latents: Size) -> Grid | None:
    try:
        return family.grid(config, latents)
    except ModelError:
        return None


def _pixels(family: ModelFamily, config: Config, latents: Size) -> Size:
    time, height, width = family.pixels_per_latent(config)
    return 1 + (latents[0] - 1) * time, latents[1] * height, latents[2] * width
