"""A tiny HunyuanVideo pipeline."""

from __future__ import annotations

from typing import Any

import torch

from .pipeline import TinyPipeline
from .text import clip_text, llama, tokenizer

_CALL = {
    "height": 128,
    "width": 128,
    "num_frames": 5,
    "max_sequence_length": 20,
    "prompt_template": {"template": "{}", "crop_start": 0},
}


def _text_to_video(transformer: torch.nn.Module) -> Any:
    from diffusers import (
        AutoencoderKLHunyuanVideo,
        FlowMatchEulerDiscreteScheduler,
        HunyuanVideoPipeline,
    )

    vae = AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=(4, 4, 4, 4), layers_per_block=1, norm_num_groups=2,
        mid_block_add_attention=False,
    )  # fmt: skip
    return HunyuanVideoPipeline(
        text_encoder=llama(16),
        tokenizer=tokenizer(20),
        transformer=transformer,
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        text_encoder_2=clip_text(8, length=77),
        tokenizer_2=tokenizer(77),
    )


PIPELINES = (
    TinyPipeline("hunyuan_video", "hunyuan_video", "hunyuan_video", _text_to_video, _CALL),
    TinyPipeline(
        "hunyuan_video-undistilled",
        "hunyuan_video",
        "hunyuan_video-undistilled",
        _text_to_video,
        _CALL | {"true_cfg_scale": 4.0, "negative_prompt": "a small slow dog"},
    ),
)
