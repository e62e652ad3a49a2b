"""`paro_trt.generate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..calibration import Progress
from ..calibration.progress import SilentProgress
from ..models.experts import ExpertRole
from ..pipelines.generate import Placement
from ..pipelines.open import PipelineSource
from ..pipelines.request import Request
from ..runtime.session import Session
from ..runtime.weight_streaming import Budget
from ..verification.generation import GenerateReport, generate_file
from ..verification.videos import QualityBounds
from .arguments import PathOrStr, PlanSource, plan_of, settings_of


def generate(
    pipeline: PipelineSource,
    prompt: str,
    output: PathOrStr,
    *,
    plan: PlanSource | Sequence[PlanSource] | None = None,
    file: PathOrStr | Session | None = None,
    file_2: PathOrStr | Session | None = None,
    backend: str | None = None,
    weight_streaming_budget: Budget = None,
    engine_turns: bool | None = None,
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
        weight_streaming_budget: of each engine built with weight streaming: bytes of weights that
            stay on the GPU, or "auto".
        engine_turns: load one of the two engines at a time, each when the pipeline first runs it;
            None: where the pipeline's other models are offloaded.
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
    plans = tuple(plan_of(source) for source in sources)  # type: ignore[union-attr, arg-type]
    return generate_file(
        pipeline,
        settings_of(Request, {"prompt": prompt, **request}),
        Path(output),
        plans=plans,
        files={ExpertRole.HIGH_NOISE: file, ExpertRole.LOW_NOISE: file_2},
        backend=backend,
        weight_streaming_budget=weight_streaming_budget,
        engine_turns=engine_turns,
        compare=compare,
        bounds=QualityBounds(min_psnr, max_flicker),
        placement=Placement(device, dtype, offload),
        progress=progress or SilentProgress(),
    )
