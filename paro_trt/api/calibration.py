"""`paro_trt.calibrate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from ..calibration import CalibrationSettings, Progress
from ..calibration import calibrate as run_calibration
from ..calibration.embeddings_source import EmbeddingsSource
from ..calibration.run import CalibrationRun
from ..calibration.settings import bins_for_steps, with_defaults
from ..calibration.source import CallSource
from ..errors import ArgumentError
from ..families.registry import check_served
from ..models.experts import in_pipeline, pipeline_class
from ..models.live import ModelSource, open_model
from ..models.load import load_partner
from ..models.prompts import Prompts
from ..models.resolution import latent_size
from ..models.schedules import Schedule
from ..pipelines.calibrate import Texts, check_cpu_is_meant, is_texts, load_texts, open_source
from ..pipelines.open import PipelineSource
from ..pipelines.placement import parse_device
from ..pipelines.request import Request
from ..plan import ParoPlan
from .arguments import PathOrStr, PromptSource, prompts_from, settings_of, taken


def calibrate(
    model: ModelSource | PipelineSource,
    prompts: PromptSource | Texts,
    *,
    output: PathOrStr,
    height: int | None = None,
    width: int | None = None,
    num_frames: int | None = None,
    latents: tuple[int, int, int] | None = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
    offload: str = "none",
    transformer: str | None = None,
    text_tokens: int | None = None,
    heldout: PromptSource | Texts | None = None,
    memory: int | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> ParoPlan:
    """Learn a plan (token orders, block masks, quantization) from runs of a model, and save it.

    On sentences, the model is a pipeline and runs as its user runs it: with its scheduler,
    guidance, encoders, offloading and adapters. On embeddings, a transformer alone is sampled.

    Args:
        model: a pipeline (a directory, a hub id in the local cache, a checkpoint file or a live
            one); on embeddings, a transformer directory or a diffusers transformer, too.
        prompts: sentences, or a text file with one a line; or embeddings.
        output: the plan file (*.paro.safetensors). Unfinished work is kept next to it, and the
            same call resumes, or shares the work with a process that is at it.
        height: of the pictures, in pixels; None is the pipeline's default.
        width: of the pictures, in pixels; None is the pipeline's default.
        num_frames: of the video; None is the pipeline's default, and 1 on embeddings.
        latents: on embeddings: (frames, height, width) of the latents, instead of height and width.
        device: "auto", "cpu", "cuda" or "cuda:1"; a live model is used where it is.
        dtype: to load in; None is the checkpoint's for a pipeline and float32 on embeddings.
        offload: of a pipeline: "none", "model" or "group".
        transformer: which of a pipeline's two to plan: "transformer" or "transformer_2".
        text_tokens: of a pipeline whose padded text joins the attention: room for that many; None:
            those of the longest prompt.
        heldout: prompts to measure the finished plan on; None: on sentences, the first that
            `prompt_limit` leaves out.
        memory: bytes that the analysis may take in addition to the model; None: half of what is
            free on a GPU.
        progress: told how the work goes on; None is silent.
        settings: fields of `CalibrationSettings`, such as density=0.3 or bins=2, with the defaults
            of `with_defaults` and `bins_for_steps`: block_q is 64 where a cost, a speedup or an
            error is the budget, and each of at most 8 steps has a bin. On sentences also
            those of `Request`: num_inference_steps, guidance_scale, guidance_scale_2,
            negative_prompt, image, arguments. On embeddings also those of `Schedule`: steps, shift,
            guidance_scale, guidance_scale_2, timesteps.

    Raises:
        ModelError: the model, its prompts or its size do not fit together.
        ArgumentError: an option is out of range or unknown.
    """
    settings = with_defaults(settings)
    bins_asked_for = not settings.keys().isdisjoint({"bins", "captured_steps"})
    size = {"height": height, "width": width, "num_frames": num_frames}
    if is_texts(prompts):
        if latents is not None:
            raise ArgumentError(
                "latents", expected="height, width and num_frames on sentences", actual=str(latents)
            )
        # diffusers' own name; `steps` is that of `Request` and of `Schedule`.
        if "num_inference_steps" in settings:
            settings["steps"] = settings.pop("num_inference_steps")
        _refuse_embeddings_only(settings)
        request = Request("-", **(size | taken(Request, settings)))
        options = settings_of(CalibrationSettings, settings)
        texts = load_texts(prompts)
        limit = options.prompt_limit or len(texts)
        unseen = texts[limit:] if heldout is None else load_texts(heldout)  # type: ignore[arg-type]
        of_pipeline = open_source(
            model, texts[:limit], request, transformer=transformer, device=str(device),
            dtype=dtype or "auto", offload=offload, text_tokens=text_tokens,
        )  # fmt: skip
        source: CallSource = of_pipeline
        measured: CallSource | None = of_pipeline.with_texts(unseen[:1]) if unseen else None
    else:
        schedule = Schedule(**taken(Schedule, settings))
        options = settings_of(CalibrationSettings, settings)
        given = [None if of is None else prompts_from(of) for of in (prompts, heldout)]  # type: ignore[arg-type]
        source, measured = _embeddings(
            model, given, size, latents, str(device), dtype, schedule, transformer
        )
    if not bins_asked_for:
        heads = sum(site.heads for site in source.loaded.family.sites(source.loaded.config))
        options = bins_for_steps(options, source.served, heads, source.geometry.tokens)
    check_cpu_is_meant(CalibrationRun(source, options), str(device))
    return run_calibration(
        source, options, Path(output), heldout=measured, progress=progress, memory=memory
    )


def _embeddings(
    model: ModelSource,
    prompts: Sequence[Prompts | None],
    size: Mapping[str, int | None],
    latents: tuple[int, int, int] | None,
    device: str,
    dtype: str | torch.dtype | None,
    schedule: Schedule,
    transformer: str | None,
) -> tuple[CallSource, CallSource | None]:
    """Sources of the prompts and of the held-out ones."""
    own_scheduler = getattr(getattr(model, "scheduler", None), "config", None)
    if isinstance(model, (str, PathLike)) and transformer is not None:
        model = in_pipeline(Path(model), transformer)
    loaded = open_model(model, dtype if isinstance(dtype, torch.dtype) else None)
    check_served(loaded.family, pipeline_class(loaded.path))
    partner = load_partner(loaded)
    if isinstance(model, (str, PathLike)):
        for part in filter(None, (loaded, partner)):
            part.model.to(parse_device(device))
    height, width = size["height"], size["width"]
    if latents is None:
        if height is None or width is None:
            raise ArgumentError(
                "height, width", expected="both, or latents=(frames, height, width)",
                actual=f"height={height}, width={width}",
            )  # fmt: skip
        frames = size["num_frames"] or 1
        latents = latent_size(loaded.family, loaded.config, frames, height, width)
    elif (height, width) != (None, None):
        raise ArgumentError("latents", expected="without height and width", actual="both")
    scheduler = None
    if own_scheduler is not None:
        scheduler = {**own_scheduler, "_class_name": type(model.scheduler).__name__}  # type: ignore[union-attr]

    def source(of: Prompts) -> CallSource:
        return EmbeddingsSource(loaded, of, latents, schedule, partner, scheduler)

    first, heldout = prompts
    if first is None:
        raise ArgumentError("prompts", expected="sentences or embeddings", actual="none")
    return source(first), None if heldout is None else source(heldout)


def _refuse_embeddings_only(settings: Mapping[str, Any]) -> None:
    """Raise ArgumentError where sentences come with what only embeddings are sampled with."""
    for name in ("shift", "timesteps"):
        if settings.get(name):
            raise ArgumentError(
                f"{name} (--{name})",
                expected="none with sentences: the pipeline's own scheduler decides",
                actual=str(settings[name])[:80],
                remedy="change the scheduler of the pipeline, or pass what its call takes, such as "
                'arguments={"timesteps": [...]} (--argument timesteps=[...])',
            )
