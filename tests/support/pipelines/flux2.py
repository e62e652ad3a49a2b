"""A tiny Flux.2 klein pipeline, from text and from a reference image."""

from __future__ import annotations

from typing import Any

import torch

from .images import picture
from .pipeline import TinyPipeline
from .text import qwen3, tokenizer

_CALL = {
    "height": 256,
    "width": 256,
    "max_sequence_length": 12,
    "text_encoder_out_layers": (1, 2),
}


def _text_to_image(transformer: torch.nn.Module) -> Any:
    from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline

    vae = AutoencoderKLFlux2(
        block_out_channels=(4, 4, 4, 4), down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=4, norm_num_groups=1,
        layers_per_block=1,
    )  # fmt: skip
    chat = "{% for message in messages %}{{ message.content }}{% endfor %}"
    return Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=vae,
        text_encoder=qwen3(16),
        tokenizer=tokenizer(chat_template=chat),
        transformer=transformer,
    )


_REFERENCE = {"height": 128, "width": 160, "image": picture(128, 160)}

PIPELINES = (
    TinyPipeline("flux2-klein", "flux2", "flux2-klein", _text_to_image, _CALL),
    TinyPipeline(
        "flux2-klein-reference",
        "flux2",
        "flux2-klein-reference",
        _text_to_image,
        _CALL | _REFERENCE,
    ),
)
