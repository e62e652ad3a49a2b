"""`paro-trt generate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ArgumentError
from . import output
from .call_arguments import call_arguments
from .choices import AutoDtypeName, GenerateBackendName
from .options import (
    ArgumentOption,
    DeviceOption,
    ImageOption,
    NegativePromptOption,
    OffloadOption,
)
from .paths import ForceOption, Kind, check_output, expand_home, require_file
from .policy import UNMET
from .sizes import (
    PICTURE_HELP,
    VIDEO_HELP,
    parse_budget,
    parse_picture_size,
    parse_video_size,
)

if TYPE_CHECKING:
    from ..verification.generation import GenerateReport, RunFigures


def generate(
    pipeline: Annotated[
        str,
        typer.Argument(
            metavar="PIPELINE",
            parser=expand_home,
            help="A diffusers pipeline: its directory, a hub id in the local cache, or a"
            " .safetensors checkpoint.",
        ),
    ],
    prompt: Annotated[str, typer.Option(help="What to show.")],
    target: Annotated[
        Path, typer.Option("-o", "--output", help="The file to write, *.mp4 or *.png.")
    ],
    plan: Annotated[
        list[Path] | None,
        typer.Option(help="Apply a plan in PyTorch; once for each of two transformers."),
    ] = None,
    onnx: Annotated[
        Path | None, typer.Option(help="An exported model in place of the transformer.")
    ] = None,
    onnx_2: Annotated[
        Path | None, typer.Option("--onnx-2", help="The same of the second transformer.")
    ] = None,
    engine: Annotated[
        Path | None, typer.Option(help="An engine in place of the transformer.")
    ] = None,
    engine_2: Annotated[
        Path | None, typer.Option("--engine-2", help="The same of the second transformer.")
    ] = None,
    backend: Annotated[
        GenerateBackendName | None,
        typer.Option(
            help="Who computes: a plan by reference, cpu or cuda, by default the device's; an ONNX"
            " file by ort, the default, or cpu."
        ),
    ] = None,
    weight_streaming_budget: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE|auto",
            help="Of engines that stream their weights: what stays on the GPU of each, such as"
            " 8GB.",
        ),
    ] = None,
    engine_turns: Annotated[
        bool | None,
        typer.Option(
            "--engine-turns/--no-engine-turns",
            help="Keep one of two engines in the GPU's memory, the one that runs; by default with"
            " --offload.",
        ),
    ] = None,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare", help="Also the dense model's, both side by side, and their difference."
        ),
    ] = False,
    video: Annotated[str | None, typer.Option(metavar="F,H,W", help=VIDEO_HELP)] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="H,W", help=PICTURE_HELP),
    ] = None,
    image: ImageOption = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="Strength of the guidance.")] = None,
    negative_prompt: NegativePromptOption = None,
    argument: ArgumentOption = None,
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
    fps: Annotated[
        float | None, typer.Option(help="Frames a second; by default the pipeline's, or 16.")
    ] = None,
    device: DeviceOption = "auto",
    dtype: Annotated[
        AutoDtypeName, typer.Option(help="Of all weights; auto is that of the files.")
    ] = "auto",
    offload: OffloadOption = "none",
    min_psnr: Annotated[
        float | None, typer.Option(help="Lowest PSNR in dB that passes; compares.")
    ] = None,
    max_flicker: Annotated[
        float | None, typer.Option(help="Highest flicker that passes; compares.")
    ] = None,
    force: ForceOption = False,
    as_json: output.JsonOption = False,
) -> None:
    """Make a video or an image with a pipeline: dense, with a plan, or with an exported model.

    Sizes, steps and guidance that are not given are the plan's and the pipeline's own. Exit status
    1 if a bound is not met.
    """
    check_output(target, Kind.MEDIA, force=force, reads=() if image is None else (image,))
    request: dict[str, Any] = {
        **_size(video, size), "steps": steps, "guidance_scale": guidance_scale,
        "negative_prompt": negative_prompt, "image": image, "seed": seed, "fps": fps,
        "arguments": call_arguments(argument or ()),
    }  # fmt: skip
    budget = None if weight_streaming_budget is None else parse_budget(weight_streaming_budget)
    file = _one_file("--onnx, --engine", onnx, engine)
    file_2 = _one_file("--onnx-2, --engine-2", onnx_2, engine_2)

    import torch

    from .. import api
    from .progress import StageBars

    with StageBars() as bars:
        report = api.generate(
            pipeline,
            prompt,
            target,
            plan=plan,
            file=file,
            file_2=file_2,
            backend=backend,
            weight_streaming_budget=budget,
            engine_turns=engine_turns,
            compare=compare,
            min_psnr=min_psnr,
            max_flicker=max_flicker,
            device=device,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            offload=offload,
            progress=bars,
            **request,
        )
    if as_json:
        output.print_json(json.loads(report.to_json()))
    else:
        _show(report)
    if not report.ok:
        raise typer.Exit(UNMET)


def _size(video: str | None, size: str | None) -> dict[str, int]:
    if video is not None and size is not None:
        raise ArgumentError("--video, --size", expected="one of the two", actual="both")
    if video is not None:
        return dict(
            zip(("num_frames", "height", "width"), parse_video_size("--video", video), strict=True)
        )
    if size is not None:
        height, width = parse_picture_size("--size", size)
        return {"height": height, "width": width}
    return {}


def _one_file(options: str, onnx: Path | None, engine: Path | None) -> Path | None:
    if onnx is not None and engine is not None:
        raise ArgumentError(options, expected="one of the two", actual="both")
    for path, what in ((onnx, "an exported ONNX model"), (engine, "an engine")):
        if path is not None:
            return require_file(path, what)
    return None


def _show(report: GenerateReport) -> None:
    frames, height, width = report.size
    facts: dict[str, object] = {
        "pipeline": report.pipeline,
        "size": f"{frames} x {height} x {width}" + (f", {report.fps:g} fps" if frames > 1 else ""),
        report.run.label: _figures(report.run),
    }
    if report.dense is not None:
        facts[report.dense.label] = _figures(report.dense)
    if report.quality is not None:
        quality = report.quality
        facts["PSNR"] = f"{quality.psnr:.2f} dB"
        if quality.ssim is not None:
            facts["SSIM"] = f"{quality.ssim:.4f}"
        if quality.flicker is not None:
            facts["flicker"] = f"{quality.flicker:.4f} of the dense video's own change"
        facts["also wrote"] = ", ".join(Path(name).name for name in report.files[1:])
    output.print_facts(f"wrote {report.files[0]}", facts)
    for failure in report.failures:
        output.results().print(f"failed: {failure}", style="red", soft_wrap=True)


def _figures(run: RunFigures) -> str:
    memory = output.file_size(run.peak_bytes)
    return f"{run.seconds_per_step:.3f} s a step, {run.seconds:.2f} s in all, at most {memory}"
