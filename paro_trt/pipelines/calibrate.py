"""A pipeline's transformers as calibration takes them, and the prompts it is run on."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard

import torch

from ..calibration.cost import count_forwards, slow_cpu
from ..calibration.pipeline_source import PipelineSource
from ..calibration.run import CalibrationRun
from ..errors import ArgumentError
from ..families.base import TIMESTEPS
from ..families.registry import family_for
from ..models.apply import config_of
from ..models.experts import BOUNDARY_KEY, Expert, ExpertRole, check_serves_alone
from ..models.load import LoadedModel
from ..plan import model_identity
from .call_sizes import suited_size
from .open import PipelineSource as PipelineName
from .open import is_live, open_pipeline
from .request import Request, call_arguments, cut_prompts
from .transformers import transformers_of

Texts: TypeAlias = "Sequence[str] | str | PathLike[str]"
"""Sentences, or a text file with one a line."""

_EMBEDDINGS_SUFFIX = ".safetensors"


def is_texts(prompts: object) -> TypeGuard[Texts]:
    """Whether prompts are sentences, or a file of them, rather than embeddings."""
    if isinstance(prompts, (str, PathLike)):
        return Path(prompts).suffix != _EMBEDDINGS_SUFFIX
    return isinstance(prompts, (list, tuple))


def load_texts(prompts: Texts) -> tuple[str, ...]:
    """The sentences; a file has one a line, and empty lines are left out.

    Raises:
        ArgumentError: there are none, or the file cannot be read as UTF-8 text.
    """
    if isinstance(prompts, (str, PathLike)):
        path = Path(prompts)
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "bytes that are not UTF-8"
            raise ArgumentError(
                f"prompts: {path}",
                expected="a UTF-8 text file with one prompt a line",
                actual=reason,
                remedy="write such a file, or pass embeddings in a *.safetensors file, which "
                "safetensors.torch.save_file writes",
            ) from error
        texts = tuple(line.strip() for line in lines if line.strip())
        place = f"prompts: {path}"
    else:
        texts, place = tuple(prompts), "prompts"
        if not all(isinstance(text, str) and text.strip() for text in texts):
            raise ArgumentError(place, expected="sentences", actual="an empty or other entry")
    if not texts:
        raise ArgumentError(
            place, expected="at least one sentence", actual="none", remedy="write one prompt a line"
        )
    return texts


def split_role(source: PipelineName) -> tuple[PipelineName, str | None]:
    """A pipeline and the transformer of it that a directory within it names, if it does."""
    if is_live(source):
        return source, None
    path = Path(source)
    roles = [role.value for role in ExpertRole]
    if path.name in roles and (path.parent / "model_index.json").is_file():
        return path.parent, path.name
    return source, None


def planned_transformer(
    pipe: Any, role: str | None = None
) -> tuple[LoadedModel, torch.nn.Module | None]:
    """The transformer of a pipeline that a plan is for, and its partner where there are two.

    Args:
        pipe: a diffusers pipeline.
        role: "transformer" or "transformer_2"; needed where both serve a part of the schedule.

    Raises:
        ArgumentError: the pipeline has no such transformer, or two and no role was given.
        ModelError: the transformer is of no family that is known, or the pipeline lacks one that a
            part of the schedule needs.
    """
    models = transformers_of(pipe)
    names = [found.value for found in models]
    ratio = getattr(pipe.config, BOUNDARY_KEY, None)
    joint = len(models) == 2 and ratio is not None
    if ratio is not None and not joint:
        check_serves_alone(next(iter(models)), float(ratio), type(pipe).__name__)
    if role is None and joint:
        raise ArgumentError(
            "transformer (--transformer)",
            expected=" or ".join(names),
            actual="none",
            remedy="each of the two serves a part of the schedule and has a plan of its own: "
            "calibrate once for each",
        )
    chosen = next((found for found in models if found.value == role), None)
    if role is None:
        chosen = next(iter(models))
    if chosen is None:
        raise ArgumentError("transformer", expected=" or ".join(names), actual=repr(role))
    module = models[chosen].eval()
    class_name, config = type(module).__name__, config_of(module)
    family = family_for(class_name)
    family.check_config(config)
    expert = Expert(chosen, float(ratio) * TIMESTEPS) if joint and ratio is not None else None
    identify = model_identity if expert is None else expert.identity
    place = Path(str(getattr(module, "name_or_path", "") or class_name))
    dtype: torch.dtype = module.dtype  # type: ignore[assignment]
    loaded = LoadedModel(module, family, config, place, identify(class_name, config), dtype, expert)
    partner = next((models[other] for other in models if other is not chosen), None)
    return loaded, partner if joint else None


def open_source(
    source: PipelineName,
    texts: Sequence[str],
    request: Request,
    *,
    transformer: str | None,
    device: str,
    dtype: str | torch.dtype,
    offload: str,
    text_tokens: int | None,
) -> PipelineSource:
    """A pipeline, opened and rehearsed, as the source of a calibration's calls.

    Args:
        source: a pipeline, or the directory of one of its transformers.
        texts: the prompts.
        request: what every run has in common; its prompt and seed are not used.
        transformer: which of two transformers to plan.
        device: as of `open_pipeline`; of a live pipeline, where it is.
        dtype: as of `open_pipeline`.
        offload: as of `open_pipeline`.
        text_tokens: as of `PipelineSource`.

    Raises:
        ModelError: it cannot be opened, or is of no known family.
        ArgumentError: an argument does not fit the pipeline.
    """
    named, role = split_role(source)
    if is_live(named):
        pipe = open_pipeline(named, dtype=dtype, offload=offload)
        _check_device(pipe, device)
    else:
        pipe = open_pipeline(named, device=device, dtype=dtype, offload=offload)
    return source_of(pipe, texts, request, transformer or role, text_tokens)


def source_of(
    pipe: Any,
    texts: Sequence[str],
    request: Request,
    transformer: str | None = None,
    text_tokens: int | None = None,
) -> PipelineSource:
    """An open pipeline as the source of calls; arguments as of `open_source`."""
    loaded, partner = planned_transformer(pipe, transformer)
    arguments = call_arguments(pipe, request)
    cut = (note for text in texts for note in cut_prompts(pipe, {**arguments, "prompt": text}))
    notes = list(dict.fromkeys(cut))
    arguments, rounded = suited_size(pipe, arguments)
    del arguments["prompt"]
    return PipelineSource(pipe, loaded, texts, arguments, partner, text_tokens, [*notes, *rounded])


def check_cpu_is_meant(run: CalibrationRun, device: str) -> None:
    """Raise ArgumentError where a long sequence would be calibrated on a CPU by default.

    Args:
        run: what would run.
        device: the option as given.
    """
    if run.source.device.type != "cpu" or device == "cpu":
        return
    if (hours := slow_cpu(run)) is not None:
        raise ArgumentError(
            "device (--device)",
            expected=f"a GPU for {run.tokens} tokens",
            actual=f"a CPU, where {count_forwards(run, None).total} forwards take about "
            f"{hours:.0f} hours",
            remedy='use fewer frames or a smaller size, or ask for it: device="cpu" (--device cpu)',
        )


def _check_device(pipe: Any, device: str) -> None:
    actual = torch.device(pipe._execution_device)
    if device != "auto" and torch.device(device).type != actual.type:
        raise ArgumentError(
            "device",
            expected=f"auto or {actual}, where the live pipeline is",
            actual=device,
            remedy=f'call pipe.to("{device}") first',
        )
