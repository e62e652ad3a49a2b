"""`paro-trt encode`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from . import output
from .calibrate import calibration_size
from .call_arguments import call_arguments
from .choices import AutoDtypeName
from .options import (
    ArgumentOption,
    DeviceOption,
    ImageOption,
    NegativePromptOption,
    OffloadOption,
    SizeOption,
    TextTokensOption,
    VideoOption,
)
from .paths import ForceOption, Kind, check_output, expand_home


def encode(
    pipeline: Annotated[
        str,
        typer.Argument(
            metavar="PIPELINE",
            parser=expand_home,
            help="Pipeline directory, hub id in the local cache, or checkpoint file.",
        ),
    ],
    prompts: Annotated[Path, typer.Option(help="Text file with one prompt a line.")],
    target: Annotated[
        Path, typer.Option("-o", "--output", help="The prompt file to write, *.safetensors.")
    ],
    video: VideoOption = None,
    size: SizeOption = None,
    image: ImageOption = None,
    text_tokens: TextTokensOption = None,
    device: DeviceOption = "auto",
    dtype: Annotated[
        AutoDtypeName, typer.Option(help="To load in. auto: the checkpoint's.")
    ] = "auto",
    offload: OffloadOption = "none",
    guidance_scale: Annotated[
        float | None,
        typer.Option(help="1 leaves the negative prompt out. [default: the pipeline's]"),
    ] = None,
    negative_prompt: NegativePromptOption = None,
    argument: ArgumentOption = None,
    seed: Annotated[
        int, typer.Option(help="Of the noise, where an image's latents have some.")
    ] = 0,
    force: ForceOption = False,
    as_json: output.JsonOption = False,
) -> None:
    """Write what a pipeline's encoders make of sentences, for calibration on another machine.

    The pipeline runs up to its first step. The transformer's weights are not read.
    """
    dimensions = calibration_size(None, video, size, texts=True)
    check_output(target, Kind.TENSORS, force=force, reads=(prompts,))

    import torch

    from ..models.prompts import save_prompts
    from ..pipelines.calibrate import load_texts
    from ..pipelines.encode import encode_prompts
    from ..pipelines.request import Request

    given: dict[str, Any] = {
        "guidance_scale": guidance_scale, "negative_prompt": negative_prompt, "image": image,
        "seed": seed, "arguments": call_arguments(argument or ()), **dimensions,
    }  # fmt: skip
    with output.status("encoding"):
        made = encode_prompts(
            pipeline,
            load_texts(prompts),
            Request("-", **given),
            device=device,
            dtype="auto" if dtype == "auto" else getattr(torch, dtype),
            offload=offload,
            text_tokens=text_tokens,
        )
        save_prompts(made, target)
    tensors = {name: list(tensor.shape) for name, tensor in made.tensors.items()}
    negative = {name: list(tensor.shape) for name, tensor in (made.negative or {}).items()}
    facts: dict[str, Any] = {"prompts": len(made), "tensors": tensors, "negative": negative}
    if as_json:
        output.print_json({"file": str(target), **facts})
        return
    shown = {
        "prompts": str(len(made)),
        **{name: f"{shape}" for name, shape in tensors.items()},
        "negative": ", ".join(negative) or "none",
        output.NEXT: _next(pipeline, target, dimensions),
    }
    output.print_facts(f"wrote {target}", shown)


def _next(pipeline: str, file: Path, dimensions: Mapping[str, int]) -> str:
    """The calibration on the file; an image is a video of one frame there."""
    transformer = Path(pipeline) / "transformer"
    place = str(transformer) if transformer.is_dir() else "TRANSFORMER"
    pixels = "F,H,W"
    if dimensions:
        pixels = "{},{height},{width}".format(dimensions.get("num_frames", 1), **dimensions)
    return output.command_line("calibrate", place, "--prompts", file, "--video", pixels)
