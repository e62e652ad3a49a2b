"""What a user asks of a pipeline, as the arguments that its own `__call__` takes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from ..errors import ArgumentError

DEFAULT_FPS = 16.0
"""Frames a second of pipelines that do not say theirs."""

_RATE_NAMES = ("frame_rate", "fps")
_OUTPUT = {"output_type": "np", "return_dict": True}


@dataclass(frozen=True)
class Request:
    """One video or image. None leaves a value to the pipeline's own default.

    Args:
        prompt: a sentence.
        negative_prompt: what to keep away from.
        num_frames: of a video.
        height: in pixels.
        width: in pixels.
        steps: denoising steps.
        guidance_scale: of the pipeline's guidance.
        guidance_scale_2: of the second of two transformers.
        image: a file or a PIL image, for pipelines that start from one.
        seed: of the initial noise, the same on every device.
        fps: frames a second of the file, and of the model where it takes a rate.
        arguments: any others of the pipeline's call, by name.
    """

    prompt: str
    negative_prompt: str | None = None
    num_frames: int | None = None
    height: int | None = None
    width: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    guidance_scale_2: float | None = None
    image: Any = None
    seed: int = 0
    fps: float | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.prompt, str) or not self.prompt.strip():
            raise ArgumentError("prompt", expected="a sentence", actual=repr(self.prompt)[:80])
        for name in ("num_frames", "height", "width", "steps"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ArgumentError(name, expected="a positive integer", actual=repr(value)[:80])
        if self.fps is not None and not 0 < self.fps <= 1000:
            raise ArgumentError("fps", expected="above 0 and up to 1000", actual=str(self.fps))


def call_arguments(pipe: Any, request: Request) -> dict[str, Any]:
    """Keyword arguments of `pipe.__call__` for a request, without a generator.

    Raises:
        ArgumentError: the pipeline's call does not have an argument that the request gives, or
            needs one that it does not; or the image cannot be read.
    """
    known = call_parameters(pipe)
    given = {
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "num_frames": request.num_frames,
        "height": request.height,
        "width": request.width,
        "num_inference_steps": request.steps,
        "guidance_scale": request.guidance_scale,
        "guidance_scale_2": request.guidance_scale_2,
        "image": _image(request.image),
        **dict(request.arguments),
    }
    asked = {name: value for name, value in given.items() if value is not None}
    for name in asked:
        if name not in known:
            raise ArgumentError(
                name,
                expected=f"an argument that {type(pipe).__name__} takes",
                actual=f"one that its call does not have ({', '.join(sorted(known))})",
            )
    needed = [name for name, entry in known.items() if entry.default is inspect.Parameter.empty]
    for name in needed:
        if name not in asked:
            remedy = "--image FILE" if name == "image" else f"--argument {name}=VALUE"
            raise ArgumentError(
                name, expected=f"a value: {type(pipe).__name__} needs it", actual="none",
                remedy=remedy,
            )  # fmt: skip
    rates = {name: request.fps for name in _RATE_NAMES if request.fps and name in known}
    return asked | rates | {name: value for name, value in _OUTPUT.items() if name in known}


def seeded(pipe: Any, arguments: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The arguments with a generator of its own for one call, on the CPU whatever the device."""
    if "generator" not in call_parameters(pipe):
        return dict(arguments)
    return dict(arguments) | {"generator": torch.Generator("cpu").manual_seed(seed)}


def makes_video(pipe: Any) -> bool:
    """Whether the pipeline's call has a number of frames."""
    return "num_frames" in call_parameters(pipe)


def frames_per_second(pipe: Any, request: Request) -> float:
    """Of the file: what the request says, else the rate that the pipeline's call has by default."""
    if request.fps is not None:
        return request.fps
    known = call_parameters(pipe)
    defaults = [known[name].default for name in _RATE_NAMES if name in known]
    return next((float(rate) for rate in defaults if isinstance(rate, (int, float))), DEFAULT_FPS)


def default_of(pipe: Any, name: str) -> Any:
    """Default of an argument of the pipeline's call; None if it has none."""
    entry = call_parameters(pipe).get(name)
    return None if entry is None or entry.default is inspect.Parameter.empty else entry.default


def cut_prompts(pipe: Any, arguments: Mapping[str, Any]) -> list[str]:
    """A line for each tokenizer that has more tokens of the prompt than its encoder reads."""
    lines = []
    for suffix in ("", "_2", "_3"):
        tokenizer = getattr(pipe, f"tokenizer{suffix}", None)
        encoder = type(getattr(pipe, f"text_encoder{suffix}", None)).__name__
        limit = arguments.get("max_sequence_length") or default_of(pipe, "max_sequence_length")
        if encoder.startswith("CLIP"):
            limit = getattr(tokenizer, "model_max_length", None)
        if not callable(tokenizer) or not isinstance(limit, int):
            continue
        count = len(tokenizer(arguments["prompt"], verbose=False)["input_ids"])
        if count > limit:
            lines.append(f"the prompt has {count} tokens, of which {encoder} reads {limit}")
    return lines


def call_parameters(pipe: Any) -> Mapping[str, inspect.Parameter]:
    """Arguments of the pipeline's call by name."""
    return inspect.signature(pipe.__call__).parameters


def _image(image: Any) -> Any:
    if not isinstance(image, (str, PathLike)):
        return image
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(Path(image)) as file:
            return file.convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ArgumentError(
            f"image {image}", expected="a picture that Pillow reads",
            actual=str(error).splitlines()[0][:200] if str(error) else repr(error),
        ) from error  # fmt: skip
