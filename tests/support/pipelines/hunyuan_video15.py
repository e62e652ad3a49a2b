"""A tiny HunyuanVideo-1.5 pipeline, text to video."""

from __future__ import annotations

from typing import Any

import torch

from .pipeline import TinyPipeline
from .text import qwen2_5_vl_text, t5, tokenizer

_CALL = {"height": 128, "width": 128, "num_frames": 5}


def _text_to_video(transformer: torch.nn.Module) -> Any:
    from diffusers import (
        AutoencoderKLHunyuanVideo15,
        ClassifierFreeGuidance,
        FlowMatchEulerDiscreteScheduler,
        HunyuanVideo15Pipeline,
    )

    vae = AutoencoderKLHunyuanVideo15(
        latent_channels=4, block_out_channels=(32, 32, 32, 32, 32), layers_per_block=1
    )
    return HunyuanVideo15Pipeline(
        text_encoder=qwen2_5_vl_text(16),
        tokenizer=tokenizer(
            1108, chat_template="{% for message in messages %}{{ message.content }} {% endfor %}"
        ),
        transformer=transformer,
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
        text_encoder_2=t5(12),
        tokenizer_2=tokenizer(256),
        guider=ClassifierFreeGuidance(guidance_scale=6.0),
    )


def _short_text(pipeline: Any) -> None:
    """The tiny model's 20 tokens, the last of the chat, instead of 1,000."""
    pipeline.tokenizer_max_length = 20
    pipeline.system_message = ""
    pipeline.prompt_template_encode_start_idx = 0


PIPELINES = (
    TinyPipeline(
        "hunyuan_video15-t2v",
        "hunyuan_video15",
        "hunyuan_video15-t2v",
        _text_to_video,
        _CALL,
        prepare=_short_text,
    ),
)
