"""Tiny Cosmos-Predict2 pipelines: text to image and video to world."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch

from paro_trt.families.shared.adapt import replaced

from .images import autoencoder_wan, picture
from .pipeline import TinyPipeline
from .text import t5, tokenizer

_CALL = {"height": 128, "width": 128, "max_sequence_length": 12}


class NoGuardrail:
    """In the place of NVIDIA's guardrail, whose package and weights tests do not have."""

    def to(self, *_: object, **__: object) -> NoGuardrail:
        return self

    def check_text_safety(self, _: str) -> bool:
        return True

    def check_video_safety(self, video: Any) -> Any:
        return video


def _parts(transformer: torch.nn.Module) -> dict[str, Any]:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return {
        "text_encoder": t5(16),
        "tokenizer": tokenizer(),
        "transformer": transformer,
        "vae": autoencoder_wan(),
        "scheduler": FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True),
        "safety_checker": NoGuardrail(),
    }


def _text_to_image(transformer: torch.nn.Module) -> Any:
    from diffusers import Cosmos2TextToImagePipeline

    return Cosmos2TextToImagePipeline(**_parts(transformer))


def _video_to_world(transformer: torch.nn.Module) -> Any:
    from diffusers import Cosmos2VideoToWorldPipeline

    return Cosmos2VideoToWorldPipeline(**_parts(transformer))


@contextmanager
def resizing() -> Iterator[None]:
    """torchvision's resizing, which the stock forward needs and tests do not have."""

    def resize(tensor: torch.Tensor, size: list[int], **_: object) -> torch.Tensor:
        return torch.nn.functional.interpolate(tensor, tuple(size), mode="nearest")

    from diffusers.models.transformers import transformer_cosmos

    functional = SimpleNamespace(resize=resize)
    stub = SimpleNamespace(functional=functional, InterpolationMode=SimpleNamespace(NEAREST=None))
    with replaced(transformer_cosmos, "transforms", stub):
        yield


PIPELINES = (
    TinyPipeline(
        "cosmos-predict2-image",
        "cosmos",
        "cosmos-predict2-image",
        _text_to_image,
        _CALL | {"height": 256},
        loaded_with={"safety_checker": NoGuardrail()},
        around=resizing,
    ),
    TinyPipeline(
        "cosmos-predict2-video",
        "cosmos",
        "cosmos-predict2-video",
        _video_to_world,
        _CALL | {"num_frames": 5, "image": picture(128, 128)},
        loaded_with={"safety_checker": NoGuardrail()},
        around=resizing,
    ),
)
