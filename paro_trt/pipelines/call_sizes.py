"""The size of what a call of a pipeline makes: asked, of a plan, or the nearest there is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..calibration.pipeline_source import first_geometry
from ..errors import ArgumentError
from ..families.base import Config, ModelFamily
from ..models.apply import config_of
from ..plan import Grid
from .request import call_parameters, default_of, makes_video
from .sizes import Size, latents_of_grid, nearest_size, size_of_grid
from .transformers import check_transformers, transformers_of

SIZES = ("num_frames", "height", "width")
"""Arguments of a pipeline's call."""


def suited_size(pipe: Any, arguments: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The arguments with a size that the pipeline need not round, and a line if it was another.

    Raises:
        ModelError: the model has no size near this one.
    """
    role, family = next(iter(check_transformers(pipe).items()))
    config = config_of(transformers_of(pipe)[role])
    size = size_asked(pipe, arguments)
    if size is None or not has_usual_vae(pipe, family, config):
        return dict(arguments), []
    suited = nearest_size(family, config, size)
    known = call_parameters(pipe)
    named = {name: of for name, of in zip(SIZES, suited, strict=True) if name in known}
    if suited == size:
        return {**arguments, **named}, []
    line = f"{_shown(pipe, size)} does not suit this model: {_shown(pipe, suited)} is made"
    return {**arguments, **named}, [line]


def has_usual_vae(pipe: Any, family: ModelFamily, config: Config) -> bool:
    """Whether sizes follow from the family: so many pixels a latent as its released VAEs have."""
    time, height, width = family.pixels_per_latent(config)
    own_time = getattr(pipe, "vae_scale_factor_temporal", time)
    own_space = getattr(pipe, "vae_scale_factor_spatial", height)
    return (own_time, own_space, own_space) == (time, height, width)


def size_that_calls(
    pipe: Any, family: ModelFamily, config: Config, grid: Grid, arguments: Mapping[str, Any]
) -> dict[str, int]:
    """The size at which a pipeline calls its transformer with a plan's tokens, by argument.

    Where the VAE is not the family's usual one, the pipeline's own factors give candidates, and
    running it up to the first call of its transformer shows which of them makes those tokens.

    Args:
        pipe: the pipeline.
        family: its transformer's.
        config: its transformer's.
        grid: of the plan.
        arguments: of the call, without a size.

    Raises:
        ArgumentError: no candidate does.
        ModelError: no size of the family's has that grid.
    """
    known = call_parameters(pipe)
    if has_usual_vae(pipe, family, config):
        usual = zip(SIZES, size_of_grid(family, config, grid), strict=True)
        return {name: value for name, value in usual if name in known}
    frames, *plane = latents_of_grid(family, config, grid)
    time = getattr(pipe, "vae_scale_factor_temporal", 1)
    height, width = (latents * getattr(pipe, "vae_scale_factor_spatial", 1) for latents in plane)
    exact = 1 + (frames - 1) * time
    # Pipelines round the number of frames up to one more than a multiple; where every number is a
    # multiple, diffusers makes one frame more than asked.
    for count in (exact, exact - 1):
        size = {"num_frames": count, "height": height, "width": width}
        call = {**arguments, **{name: value for name, value in size.items() if name in known}}
        models = list(transformers_of(pipe).values())
        if count and first_geometry(pipe, models, family, call).grid == grid:
            return {name: call[name] for name in size if name in call}
    raise ArgumentError(
        "the size", expected="given: the pipeline's VAE is not the family's usual one",
        actual="none", remedy="pass the size that the plan was calibrated at",
    )  # fmt: skip


def size_asked(pipe: Any, arguments: Mapping[str, Any]) -> Size | None:
    """(frames, height, width) of a call, by its arguments and their defaults; None where the
    pipeline finds a size by itself."""
    asked = {name: arguments.get(name) or default_of(pipe, name) for name in SIZES}
    frames = asked["num_frames"] if makes_video(pipe) else 1
    height, width = asked["height"], asked["width"]
    if frames is None or height is None or width is None:
        return None
    return int(frames), int(height), int(width)


def _shown(pipe: Any, size: Size) -> str:
    frames, height, width = size
    return f"{frames} x {height} x {width}" if makes_video(pipe) else f"{height} x {width}"
