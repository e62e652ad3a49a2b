"""Tiny Stable Diffusion 3.5 pipelines."""

from __future__ import annotations

from typing import Any

import torch

from .images import autoencoder_kl
from .pipeline import TinyPipeline
from .text import clip_text, t5, tokenizer

_CLIP_TOKENS = 7
_CALL = {"height": 256, "width": 256, "max_sequence_length": 6}


def _text_to_image(transformer: torch.nn.Module) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder_kl(4),
        text_encoder=clip_text(8, projection=4, length=_CLIP_TOKENS),
        tokenizer=tokenizer(_CLIP_TOKENS),
        text_encoder_2=clip_text(8, projection=4, length=_CLIP_TOKENS),
        tokenizer_2=tokenizer(_CLIP_TOKENS),
        text_encoder_3=t5(32),
        tokenizer_3=tokenizer(),
    )


PIPELINES = (
    TinyPipeline("sd3.5-medium", "sd3", "sd3.5-medium", _text_to_image, _CALL),
    TinyPipeline("sd3", "sd3", "sd3", _text_to_image, _CALL),
)
