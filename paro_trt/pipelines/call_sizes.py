"""The size of what a call of a pipeline makes: asked, of a plan, or the nearest there is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..calibration.pipeline_source import first_geometry
from ..errors import ArgumentError, ModelError
from ..families.base import Config, ModelFamily
from ..models.apply import config_of
from ..plan import Grid
from .request import call_parameters, default_of, makes_video
from .sizes import (
    Size,
    few_latents,
    largest_latents,
    latents_of_grid,
    nearest_size,
    size_of_grid,
)
from .transformers import check_transformers, transformers_of

SIZES = ("num_frames", "height", "width")
"""Arguments of a pipeline's call."""


def suited_size(pipe: Any, arguments: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The arguments with a size that the pipeline need not round, and a line if it was another.

    Raises:
        ModelError: the model has no size near this one; the message has the largest, and a smaller
            one as an example.
    """
    role, family = next(iter(check_transformers(pipe).items()))
    config = config_of(transformers_of(pipe)[role])
    size = size_asked(pipe, arguments)
    if size is not None:
        _check_largest(pipe, family, config, size, arguments)
    if size is None or not has_usual_vae(pipe, family, config):
        return dict(arguments), []
    suited = nearest_size(family, config, size)
    known = call_parameters(pipe)
    named = {name: of for name, of in zip(SIZES, suited, strict=True) if name in known}
    if suited == size:
        return {**arguments, **named}, []
    line = f"{_shown(pipe, size)} does not suit this model: {_shown(pipe, suited)} is made"
    return {**arguments, **named}, [line]


def _check_largest(
    pipe: Any, family: ModelFamily, config: Config, size: Size, arguments: Mapping[str, Any]
) -> None:
    """Raise ModelError where a size is beyond the positions that the model has."""
    largest = largest_latents(family, config)
    asked = _latents(pipe, family, config, size)
    if largest is None or all(count <= most for count, most in zip(asked, largest, strict=True)):
        return
    within = tuple(min(count, most) for count, most in zip(asked, largest, strict=True))
    few = few_latents(family, config, within) or largest  # type: ignore[arg-type]
    frames, *plane = _pixels(pipe, family, config, few)
    named = not arguments.keys().isdisjoint(SIZES)
    video = makes_video(pipe)
    option = f"--video {frames}," if video else "--size "
    raise ModelError(
        "the size (--video)" if video else "the size (--size)",
        expected=f"at most {_shown(pipe, _pixels(pipe, family, config, largest))}"
        f" ({'frames x ' if video else ''}height x width), for which this model has positions",
        actual=_shown(pipe, size) + ("" if named else f", the default of {type(pipe).__name__}"),
        remedy=f"give one that fits, such as {option}{plane[0]},{plane[1]}",
    )


def _latents(pipe: Any, family: ModelFamily, config: Config, size: Size) -> Size:
    time, height, width = _pixels_per_latent(pipe, family, config)
    frames = 1 + (size[0] - 1) // time + _extra_frame(pipe, time)
    return frames, size[1] // height, size[2] // width


def _pixels(pipe: Any, family: ModelFamily, config: Config, latents: Size) -> Size:
    """The size that a call asks for to have these latents."""
    time, height, width = _pixels_per_latent(pipe, family, config)
    frames = 1 + (latents[0] - 1 - _extra_frame(pipe, time)) * time
    return frames, latents[1] * height, latents[2] * width


def _extra_frame(pipe: Any, time: int) -> int:
    """1 where a pipeline makes one frame more than asked.

    diffusers rounds the frames of Wan to one more than a multiple of the VAE's factor, by a test
    that a factor of 1 never passes.
    """
    return int(time == 1 and type(pipe).__name__.startswith("Wan"))


def _pixels_per_latent(pipe: Any, family: ModelFamily, config: Config) -> Size:
    """Of the pipeline's VAE; the family's where the pipeline does not say."""
    time, height, width = family.pixels_per_latent(config)
    space = getattr(pipe, "vae_scale_factor_spatial", None)
    own_time = getattr(pipe, "vae_scale_factor_temporal", time)
    return own_time, space or height, space or width


def has_usual_vae(pipe: Any, family: ModelFamily, config: Config) -> bool:
    """Whether sizes follow from the family: so many pixels a latent as its released VAEs have."""
    return _pixels_per_latent(pipe, family, config) == family.pixels_per_latent(config)


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
