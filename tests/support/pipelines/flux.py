"""Tiny Flux pipelines: dev and schnell."""

from __future__ import annotations

from typing import Any

import torch

from .images import autoencoder_kl
from .pipeline import TinyPipeline
from .text import clip_text, t5, tokenizer

_CALL = {"height": 256, "width": 256, "max_sequence_length": 12}


def _text_to_image(transformer: torch.nn.Module) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

    distilled = transformer.config["guidance_embeds"]
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(
            shift=3.0 if distilled else 1.0, use_dynamic_shifting=distilled
        ),
        vae=autoencoder_kl(4),
        text_encoder=clip_text(8),
        tokenizer=tokenizer(),
        text_encoder_2=t5(32),
        tokenizer_2=tokenizer(),
        transformer=transformer,
    )


PIPELINES = (
    TinyPipeline("flux-dev", "flux", "flux-dev", _text_to_image, _CALL),
    TinyPipeline("flux-schnell", "flux", "flux-schnell", _text_to_image, _CALL),
)
