"""A prompt through a pipeline: fitted to the model and the plan beforehand, then sampled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch

from ..calibration.pipeline_source import first_geometry
from ..calibration.progress import Progress
from ..errors import ArgumentError, ModelError
from ..families.base import Config, ModelFamily
from ..models.apply import config_of
from ..plan import Grid
from .open import AUTO, PipelineSource, is_live, load_pipeline, open_pipeline
from .placement import Offload, execution_device, parse_device, parse_offload, place_pipeline
from .request import (
    Request,
    call_arguments,
    call_parameters,
    cut_prompts,
    default_of,
    makes_video,
    seeded,
)
from .sampling import Sample, sample
from .sizes import Size, grid_of_size, latents_of_grid, nearest_size, size_of_grid
from .transformers import check_transformers, transformers_of
from .variants import Variant

DENSE = Variant()

_SIZES = ("num_frames", "height", "width")


@dataclass(frozen=True)
class Placement:
    """How a pipeline is opened: the options of `open_pipeline`."""

    device: str | torch.device = AUTO
    dtype: str | torch.dtype = AUTO
    offload: str | Offload = Offload.NONE


@contextmanager
def opened(
    source: PipelineSource, variant: Variant, placement: Placement, *, compare: bool
) -> Iterator[Any]:
    """The pipeline, on its device. Weights that sessions make needless are not loaded.

    Args:
        source: as of `open_pipeline`.
        variant: what will compute the transformers.
        placement: the options of `open_pipeline`.
        compare: the dense model will run too, and so needs its weights.

    Raises:
        ModelError, ArgumentError: as of `open_pipeline` and `Variant.within`.
    """
    if is_live(source) or compare or not variant.sessions:
        yield open_pipeline(
            source,
            device=placement.device,
            dtype=placement.dtype,
            offload=placement.offload,
        )
        return
    assert isinstance(source, (str, PathLike))
    device, offload = parse_device(placement.device), parse_offload(placement.offload)
    pipe = load_pipeline(source, placement.dtype, device, shells=variant.sessions)
    with variant.within(pipe, device):
        place_pipeline(pipe, device, offload)
    yield pipe


def fitted(pipe: Any, request: Request, variant: Variant) -> tuple[dict[str, Any], list[str]]:
    """Arguments of the pipeline's call, and what a user should know before it runs.

    Without a size in the request, it is that of the variant's plan or file. A size that the
    pipeline would round is rounded here, and said.

    Raises:
        ModelError: the plan or file serves another size.
        ArgumentError: as of `call_arguments`.
    """
    variant.check_models(pipe)
    arguments = call_arguments(pipe, request)
    notes = cut_prompts(pipe, arguments)
    role, family = next(iter(check_transformers(pipe).items()))
    config = config_of(transformers_of(pipe)[role])
    grids = set(variant.grids)
    if not _has_usual_vae(pipe, family, config):
        if grids and not arguments.keys() & set(_SIZES):
            arguments |= _size_that_calls(pipe, family, config, next(iter(grids)), arguments)
        # Only the pipeline knows its sizes. The plan refuses a call of another one.
        return arguments, notes
    size = _size_asked(pipe, arguments)
    if grids and not arguments.keys() & set(_SIZES):
        size = size_of_grid(family, config, next(iter(grids)))
    if size is None:
        return arguments, notes
    rounded = nearest_size(family, config, size)
    if rounded != size:
        notes.append(
            f"{_shown(pipe, size)} does not suit this model: {_shown(pipe, rounded)} is made"
        )
    _check_grids(family, config, rounded, variant, video=makes_video(pipe))
    known = call_parameters(pipe)
    sizes = zip(_SIZES, rounded, strict=True)
    return arguments | {name: value for name, value in sizes if name in known}, notes


def _has_usual_vae(pipe: Any, family: ModelFamily, config: Config) -> bool:
    """Whether sizes follow from the family: so many pixels a latent as its released VAEs have."""
    time, height, width = family.pixels_per_latent(config)
    own_time = getattr(pipe, "vae_scale_factor_temporal", time)
    own_space = getattr(pipe, "vae_scale_factor_spatial", height)
    return (own_time, own_space, own_space) == (time, height, width)


def _size_that_calls(
    pipe: Any, family: ModelFamily, config: Config, grid: Grid, arguments: Mapping[str, Any]
) -> dict[str, int]:
    """The size at which a pipeline of another VAE than its family's calls with a plan's tokens.

    Its own factors give candidates; that the pipeline makes the plan's tokens of one is seen by
    running it up to the first call of its transformer.

    Raises:
        ArgumentError: no candidate does.
    """
    frames, *plane = latents_of_grid(family, config, grid)
    time = getattr(pipe, "vae_scale_factor_temporal", 1)
    height, width = (latents * getattr(pipe, "vae_scale_factor_spatial", 1) for latents in plane)
    exact = 1 + (frames - 1) * time
    known = call_parameters(pipe)
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


def _size_asked(pipe: Any, arguments: Mapping[str, Any]) -> Size | None:
    """(frames, height, width) of a call, by its arguments and their defaults; None where the
    pipeline finds a size by itself."""
    asked = {name: arguments.get(name) or default_of(pipe, name) for name in _SIZES}
    frames = asked["num_frames"] if makes_video(pipe) else 1
    height, width = asked["height"], asked["width"]
    if frames is None or height is None or width is None:
        return None
    return int(frames), int(height), int(width)


def _shown(pipe: Any, size: Size) -> str:
    frames, height, width = size
    return f"{frames} x {height} x {width}" if makes_video(pipe) else f"{height} x {width}"


def _check_grids(
    family: ModelFamily, config: Config, size: Size, variant: Variant, *, video: bool
) -> None:
    """Raise ModelError unless every plan and file of the variant serves this size."""
    grid = grid_of_size(family, config, size)
    for served in variant.grids:
        # A grid's frames are images, in families that make an image of several.
        fits = grid is not None and (served.height, served.width) == (grid.height, grid.width)
        if not fits or (video and served != grid):
            frames, height, width = size_of_grid(family, config, served)
            raise ModelError(
                "the size",
                expected=f"{frames} x {height} x {width} (frames x height x width), the plan's",
                actual=" x ".join(map(str, size)),
                remedy="leave the size out, or calibrate a plan for this one",
            )


def generate(
    pipe: Any,
    request: Request,
    arguments: Mapping[str, Any],
    variant: Variant,
    progress: Progress,
) -> Sample:
    """One call of the pipeline with its transformers computed by the variant.

    Args:
        pipe: the pipeline.
        request: gives the seed.
        arguments: of `fitted`.
        variant: who computes the transformers.
        progress: told of every step.

    Raises:
        ModelError, ArgumentError: as of `sample` and `Variant.within`.
    """
    with variant.within(pipe, execution_device(pipe)):
        return sample(pipe, seeded(pipe, arguments, request.seed), variant.label, progress)
