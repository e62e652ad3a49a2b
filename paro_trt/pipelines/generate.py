"""A prompt through a pipeline: fitted to the model and the plan beforehand, then sampled."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch

from ..calibration.pipeline_source import first_geometry
from ..calibration.progress import Progress
from ..errors import ModelError
from ..families.base import Config, ModelFamily
from ..models.apply import config_of
from ..plan import Grid
from .call_sizes import SIZES, has_usual_vae, size_asked, size_that_calls, suited_size
from .open import AUTO, PipelineSource, is_live, load_pipeline, open_pipeline
from .placement import Offload, execution_device, parse_device, parse_offload, place_pipeline
from .request import (
    Request,
    call_arguments,
    cut_prompts,
    makes_video,
    seeded,
)
from .sampling import Sample, sample
from .sizes import Size, grid_of_size, size_of_grid
from .transformers import check_transformers, transformers_of
from .variants import Variant

DENSE = Variant()


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
    of_plan = bool(grids) and arguments.keys().isdisjoint(SIZES)
    if of_plan:
        arguments |= size_that_calls(pipe, family, config, next(iter(grids)), arguments)
    arguments, rounded = suited_size(pipe, arguments)
    size = size_asked(pipe, arguments)
    if size is not None and has_usual_vae(pipe, family, config):
        _check_grids(pipe, family, config, size, variant)
    elif size is not None and grids and not of_plan:
        _check_called_grid(pipe, family, config, next(iter(grids)), arguments)
    return arguments, notes + rounded


def _check_grids(
    pipe: Any, family: ModelFamily, config: Config, size: Size, variant: Variant
) -> None:
    """Raise ModelError unless every plan and file of the variant serves this size."""
    grid = grid_of_size(family, config, size)
    for served in variant.grids:
        # A grid's frames are images, in families that make an image of several.
        fits = grid is not None and (served.height, served.width) == (grid.height, grid.width)
        if not fits or (makes_video(pipe) and served != grid):
            raise _other_size(size_of_grid(family, config, served), size)


def _check_called_grid(
    pipe: Any, family: ModelFamily, config: Config, served: Grid, arguments: Mapping[str, Any]
) -> None:
    """The same of a pipeline with an unusual VAE, which alone knows the tokens of its sizes."""
    models = list(transformers_of(pipe).values())
    if first_geometry(pipe, models, family, arguments).grid != served:
        rest = {name: value for name, value in arguments.items() if name not in SIZES}
        own = size_that_calls(pipe, family, config, served, rest)
        asked = size_asked(pipe, arguments)
        assert asked is not None
        raise _other_size(own.values(), asked)


def _other_size(served: Iterable[int], asked: Size) -> ModelError:
    return ModelError(
        "the size",
        expected=f"{' x '.join(map(str, served))} (frames x height x width), the plan's",
        actual=" x ".join(map(str, asked)),
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
