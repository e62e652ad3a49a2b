"""The steps of the tool as one function each: `paro_trt.calibrate`, `export`, `verify`, `generate`.

`paro_trt.build` and `paro_trt.apply` need no preparation and are the functions of their packages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .calibration import CalibrationSettings, Progress
from .calibration import calibrate as run_calibration
from .calibration.embeddings_source import EmbeddingsSource
from .calibration.progress import SilentProgress
from .calibration.run import CalibrationRun
from .calibration.source import CallSource
from .errors import ArgumentError
from .families.registry import check_served
from .models.experts import ExpertRole, in_pipeline, pipeline_class
from .models.live import ModelSource, open_model
from .models.load import load_partner
from .models.lora import LoraFile
from .models.prompts import Prompts, load_prompts, prompts_of
from .models.resolution import latent_size
from .models.schedules import Schedule
from .onnx_export import Body, ExportReport, export_onnx, export_resolutions
from .pipelines.calibrate import (
    Texts,
    check_cpu_is_meant,
    is_texts,
    load_texts,
    open_source,
)
from .pipelines.generate import Placement
from .pipelines.open import PipelineSource
from .pipelines.placement import parse_device
from .pipelines.request import Request
from .plan import ParoPlan, load_plan
from .runtime.session import Session
from .verification.compare import VerifySettings, verify_model
from .verification.generation import GenerateReport, generate_file
from .verification.pictures import verify_pictures
from .verification.report import VerifyReport
from .verification.videos import QualityBounds

PathOrStr: TypeAlias = "str | PathLike[str]"
PlanSource: TypeAlias = "PathOrStr | ParoPlan"
PromptSource: TypeAlias = "PathOrStr | Prompts | Mapping[str, Tensor]"
"""A prompt file, what `load_prompts` returned, or tensors [P, ...] named as in such a file."""


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
        settings: fields of `CalibrationSettings`, such as density=0.3 or bins=2. On sentences also
            those of `Request`: num_inference_steps, guidance_scale, guidance_scale_2,
            negative_prompt, image, arguments. On embeddings also those of `Schedule`: steps, shift,
            guidance_scale, guidance_scale_2, timesteps.

    Raises:
        ModelError: the model, its prompts or its size do not fit together.
        ArgumentError: an option is out of range or unknown.
    """
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
        request = Request("-", **(size | _taken(Request, settings)))
        options = _settings(CalibrationSettings, settings)
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
        schedule = Schedule(**_taken(Schedule, settings))
        options = _settings(CalibrationSettings, settings)
        given = [None if of is None else _prompts(of) for of in (prompts, heldout)]  # type: ignore[arg-type]
        source, measured = _embeddings(
            model, given, size, latents, str(device), dtype, schedule, transformer
        )
    check_cpu_is_meant(CalibrationRun(source, options), str(device))
    return run_calibration(
        source, options, Path(output), heldout=measured, progress=progress, memory=memory
    )


def export(
    model: ModelSource,
    plan: PlanSource | Sequence[PlanSource],
    output: PathOrStr,
    *,
    dtype: torch.dtype | None = None,
    body: str | Body = Body.SPARSE,
    dense: bool = False,
    opset: int | None = None,
    external_data: bool | None = None,
    variant: str | None = None,
    lora: Sequence[PathOrStr | LoraFile] = (),
    progress: Callable[[str], None] | None = None,
) -> tuple[ExportReport, ...]:
    """Write a model with its plan as an ONNX file, and check what was written.

    Weights of a directory go from its files to the new one a tensor at a time: a model of any size
    takes a few GB of memory, if its weights go to a file of their own.

    Args:
        model: a directory, a diffusers transformer or a pipeline of one transformer.
        plan: made for this model. Several, one a resolution, give several files that share their
            weights and are named after `output` and their token grid.
        output: the ONNX file; it is replaced only once the new one is whole and checked.
        dtype: to load a directory in, and so the file's type; None is float32.
        body: how runtimes without the plugin compute the op: "sparse", "dense" or "none".
        dense: write the model as it is, without PAROAttention, for comparison.
        opset: version of the standard operators; None chooses.
        external_data: weights in a file of their own; None: above 1.5 GB, or with several plans.
        variant: of a directory's weight files, such as "fp16"; None takes those without one, or
            the only one.
        lora: adapters to fuse into a directory's weights; LoraFile(path, scale) for another scale
            than 1. `verify` takes the same.
        progress: told what happens next.

    Returns:
        One report for each file.

    Raises:
        ModelError: a plan is of another model.
        ArgumentError: an option is out of range.
        ParoError: a file cannot be written.
    """
    several = isinstance(plan, Sequence) and not isinstance(plan, str)
    plans = [_plan(source) for source in (plan if several else [plan])]  # type: ignore[arg-type, union-attr]
    check_external_data(external_data, len(plans))
    loaded = open_model(model, dtype, variant=variant, lora=_adapters(lora), weights_in_files=True)
    options: dict[str, Any] = {
        "body": _body(body), "dense_baseline": dense, "opset": opset, "progress": progress,
    }  # fmt: skip
    if len(plans) > 1:
        return export_resolutions(loaded, plans, output, **options)
    return (export_onnx(loaded, plans[0], output, external_data=external_data, **options),)


def verify(
    file: PathOrStr | Session,
    model: ModelSource | None = None,
    *,
    plan: PlanSource | None = None,
    prompts: PromptSource | Texts | None = None,
    pipeline: PipelineSource | None = None,
    min_psnr: float | None = None,
    max_flicker: float | None = None,
    dtype: torch.dtype | None = None,
    lora: Sequence[PathOrStr | LoraFile] = (),
    backend: str | None = None,
    **settings: Any,
) -> VerifyReport:
    """Compare an exported file with the dense model and, given the plan, with it in PyTorch.

    With a model, velocities and sampled latents are compared; with a pipeline, decoded videos or
    images of sentences; with both, all of it.

    Args:
        file: an ONNX file or an engine, or an open session.
        model: the model it was exported from.
        plan: the plan it was exported with.
        prompts: what to sample: embeddings for a model, None being random ones; sentences, or a
            text file of them, for a pipeline. Embeddings with their texts serve both.
        pipeline: the pipeline that the model is from, as of `generate`.
        min_psnr: dB that every picture of the pipeline must reach.
        max_flicker: ratio that no video of the pipeline may exceed.
        dtype: that PyTorch computes in, for a directory; None is float32.
        lora: adapters that were fused into the file.
        backend: who runs the file, as of `open_session`: of an ONNX file "ort", PAROAttention by
            the function in the file, or "cpu", by the native op. None is "ort", and "tensorrt" for
            an engine.
        settings: fields of `VerifySettings`, such as steps=20 or min_cosine=0.99. Of a pipeline
            steps, samples and seed are used, and the guidance scales where they are given.

    Returns:
        The report; `report.ok` says whether every check passed.

    Raises:
        ModelError: the file is of another model or plan.
        OnnxFileError: the file cannot be loaded.
        ArgumentError: an option is out of range or unknown, or there is neither model nor pipeline.
    """
    options = _settings(VerifySettings, settings)
    bounds = QualityBounds(min_psnr, max_flicker)
    if model is None and pipeline is None:
        raise ArgumentError("model", expected="a model, a pipeline or both", actual="neither")
    if bounds.any and pipeline is None:
        raise ArgumentError(
            "min_psnr, max_flicker", expected="a pipeline, whose pictures they bound", actual="none"
        )
    texts, embedded = _texts_and_embeddings(prompts)
    if pipeline is None and texts and embedded is None:
        raise ArgumentError(
            "prompts", expected="embeddings, without a pipeline", actual="sentences",
            remedy="pass the pipeline too",
        )  # fmt: skip
    report: VerifyReport | None = None
    if model is not None:
        made = None if plan is None else _plan(plan)
        report = verify_model(
            file,
            open_model(model, dtype, lora=_adapters(lora)),
            made,
            embedded,
            options,
            backend=backend,
        )
    if pipeline is None:
        assert report is not None
        return report
    if not texts:
        raise ArgumentError("prompts", expected="sentences for the pipeline", actual="none")
    scales = ("guidance_scale", "guidance_scale_2")
    guidance = {name: settings[name] for name in scales if name in settings}
    requests = [
        Request(text, steps=options.steps, seed=options.seed, **guidance)
        for text in texts[: options.samples]
    ]
    pictures = verify_pictures(file, pipeline, requests, bounds, backend=backend)
    if report is None:
        return pictures
    failures = (*report.failures, *pictures.failures)
    return replace(report, pictures=pictures.pictures, failures=failures)


def _texts_and_embeddings(
    prompts: PromptSource | Texts | None,
) -> tuple[tuple[str, ...], Prompts | None]:
    if prompts is None:
        return (), None
    if is_texts(prompts):
        return load_texts(prompts), None
    embedded = _prompts(prompts)  # type: ignore[arg-type]
    return embedded.texts, embedded


def generate(
    pipeline: PipelineSource,
    prompt: str,
    output: PathOrStr,
    *,
    plan: PlanSource | Sequence[PlanSource] | None = None,
    file: PathOrStr | Session | None = None,
    file_2: PathOrStr | Session | None = None,
    backend: str | None = None,
    compare: bool = False,
    min_psnr: float | None = None,
    max_flicker: float | None = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    offload: str = "none",
    progress: Progress | None = None,
    **request: Any,
) -> GenerateReport:
    """Make a video or an image of a prompt with a pipeline, and write it.

    Args:
        pipeline: a directory, a hub id in the local cache, a checkpoint file or a live pipeline.
        prompt: a sentence.
        output: *.mp4, or *.png for an image.
        plan: applied to the transformer in PyTorch while the pipeline runs; for a pipeline of two
            transformers a sequence of two. Without plan and file the dense model runs.
        file: an exported ONNX file or engine, or an open session, in place of the transformer.
        file_2: the same in place of `transformer_2`.
        backend: of the plan "reference", "cpu" or "cuda", by default the native one of the
            device; of files "ort", "cpu" or "tensorrt", as of `open_session`.
        compare: also make the dense model's, from the same noise; write both side by side and a
            plot, and report PSNR, SSIM and flicker.
        min_psnr: dB that the comparison must reach.
        max_flicker: ratio that the comparison must not exceed.
        device: "auto", "cpu", "cuda" or "cuda:1".
        dtype: "auto", the type of the transformer's weights on disk, or a torch.dtype.
        offload: "none", "model" or "group".
        progress: told of every denoising step; None is silent.
        request: fields of `Request`: num_frames, height, width, steps, guidance_scale,
            negative_prompt, image, seed, fps, and `arguments`, any others of the pipeline's call.

    Returns:
        The report; `report.ok` says whether every bound is met.

    Raises:
        ModelError: the pipeline is not here, or does not fit the plan or the file.
        ArgumentError: an option is out of range or not one of the pipeline's.
        ParoError: a file cannot be read or written.
    """
    several = isinstance(plan, Sequence) and not isinstance(plan, str)
    sources = plan if several else [plan] if plan is not None else []
    plans = tuple(_plan(source) for source in sources)  # type: ignore[union-attr, arg-type]
    return generate_file(
        pipeline,
        _settings(Request, {"prompt": prompt, **request}),
        Path(output),
        plans=plans,
        files={ExpertRole.HIGH_NOISE: file, ExpertRole.LOW_NOISE: file_2},
        backend=backend,
        compare=compare,
        bounds=QualityBounds(min_psnr, max_flicker),
        placement=Placement(device, dtype, offload),
        progress=progress or SilentProgress(),
    )


def check_external_data(external_data: bool | None, files: int) -> None:
    """Raise ArgumentError if several files shall hold their weights themselves."""
    if files > 1 and external_data is False:
        raise ArgumentError(
            "external_data (--no-external-data)",
            expected="one resolution",
            actual=f"{files}, whose files share external weights",
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


def _taken(kind: type[Any], settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that are fields of a class, taken out of `settings`."""
    names = {field.name for field in fields(kind)} - {"seed", "prompt"}
    return {name: settings.pop(name) for name in sorted(names & set(settings))}


def _adapters(given: Sequence[PathOrStr | LoraFile]) -> tuple[LoraFile, ...]:
    return tuple(entry if isinstance(entry, LoraFile) else LoraFile(Path(entry)) for entry in given)


def _body(name: str | Body) -> Body:
    try:
        return Body(name)
    except ValueError:
        known = ", ".join(body.value for body in Body)
        raise ArgumentError("body", expected=f"one of {known}", actual=repr(name)) from None


def _plan(source: PlanSource) -> ParoPlan:
    return source if isinstance(source, ParoPlan) else load_plan(source)


def _prompts(source: PromptSource) -> Prompts:
    if isinstance(source, Prompts):
        return source
    if isinstance(source, Mapping):
        return prompts_of(source)
    return load_prompts(source)


def _settings(kind: type[Any], given: Mapping[str, Any]) -> Any:
    known = [field.name for field in fields(kind)]
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ArgumentError(
            unknown[0],
            expected=f"an argument of this function or a field of {kind.__name__}",
            actual="an unknown name",
            remedy=f"the fields are {', '.join(known)}",
        )
    return kind(**given)
