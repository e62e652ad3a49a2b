"""`paro_trt.verify`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from ..errors import ArgumentError
from ..models.live import ModelSource, open_model
from ..models.lora import LoraFile
from ..models.prompts import Prompts
from ..pipelines.calibrate import Texts, is_texts, load_texts
from ..pipelines.open import PipelineSource
from ..pipelines.request import Request
from ..runtime.session import Session
from ..verification.compare import VerifySettings, verify_model
from ..verification.pictures import verify_pictures
from ..verification.report import VerifyReport
from ..verification.videos import QualityBounds
from .arguments import (
    PathOrStr,
    PlanSource,
    PromptSource,
    adapters,
    plan_of,
    prompts_from,
    settings_of,
)


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
    arguments: Mapping[str, Any] | None = None,
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
        arguments: further ones of the pipeline's call, by name.
        settings: fields of `VerifySettings`, such as steps=20 or min_cosine=0.99. Of a pipeline
            steps, samples and seed are used, and the guidance scales where they are given.

    Returns:
        The report; `report.ok` says whether every check passed.

    Raises:
        ModelError: the file is of another model or plan.
        OnnxFileError: the file cannot be loaded.
        ArgumentError: an option is out of range or unknown, or there is neither model nor pipeline.
    """
    options = settings_of(VerifySettings, settings)
    bounds = QualityBounds(min_psnr, max_flicker)
    if model is None and pipeline is None:
        raise ArgumentError("model", expected="a model, a pipeline or both", actual="neither")
    if bounds.any and pipeline is None:
        raise ArgumentError(
            "min_psnr, max_flicker", expected="a pipeline, whose pictures they bound", actual="none"
        )
    if arguments and pipeline is None:
        raise ArgumentError(
            "arguments (--argument)", expected="a pipeline, whose call takes them", actual="none"
        )
    texts, embedded = _texts_and_embeddings(prompts)
    if pipeline is None and texts and embedded is None:
        raise ArgumentError(
            "prompts", expected="embeddings, without a pipeline", actual="sentences",
            remedy="pass the pipeline too",
        )  # fmt: skip
    report: VerifyReport | None = None
    if model is not None:
        made = None if plan is None else plan_of(plan)
        report = verify_model(
            file,
            open_model(model, dtype, lora=adapters(lora)),
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
        Request(text, steps=options.steps, seed=options.seed, arguments=arguments or {}, **guidance)
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
    embedded = prompts_from(prompts)  # type: ignore[arg-type]
    return embedded.texts, embedded
