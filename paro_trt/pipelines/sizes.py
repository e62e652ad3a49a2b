"""Sizes in pixels that fit a model: of a plan's grid, and the nearest that needs no rounding."""

from __future__ import annotations

import bisect
import itertools
import math
from typing import TypeAlias

from ..errors import ModelError
from ..families.base import Config, ModelFamily
from ..models.resolution import LARGEST_PATCH
from ..plan import Grid

Size: TypeAlias = tuple[int, int, int]
"""(frames, height, width) in pixels; an image has one frame."""

_MOST_PATCHES = 1 << 16
"""Tokens along an axis that are looked at: more than any model takes."""

_FEW_LATENTS = 1 << 13
"""Latents of a size that a model is tried at."""


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


def largest_latents(family: ModelFamily, config: Config) -> Size | None:
    """The most latents along each axis that the model takes; None for a model of one size."""
    patches = range(1, LARGEST_PATCH + 1)
    smallest = next(
        (
            latents
            for latents in itertools.product(patches, patches, patches)
            if _grid_of(family, config, latents) is not None
        ),
        None,
    )
    if smallest is None:
        return None
    frames, height, width = (_largest(family, config, smallest, axis) for axis in range(3))
    return frames, height, width


def _largest(family: ModelFamily, config: Config, smallest: Size, axis: int) -> int:
    """The most latents along one axis, where the others have their least."""

    def fits(patches: int) -> bool:
        latents = list(smallest)
        latents[axis] *= patches
        return _grid_of(family, config, tuple(latents)) is not None  # type: ignore[arg-type]

    most = bisect.bisect_left(range(1, _MOST_PATCHES + 1), True, key=lambda count: not fits(count))
    return most * smallest[axis]


def few_latents(family: ModelFamily, config: Config, most: Size) -> Size | None:
    """Latents of the shape of `most`, few enough to try a model with; None if it takes none."""
    frames, height, width = most
    while frames * height * width > _FEW_LATENTS and min(height, width) > LARGEST_PATCH:
        frames, height, width = max(1, frames // 2), height // 2, width // 2
    smaller = itertools.product(range(frames, 0, -1), range(height, 0, -1), range(width, 0, -1))
    return next((size for size in smaller if _grid_of(family, config, size) is not None), None)


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
