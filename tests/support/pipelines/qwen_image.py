"""A tiny Qwen-Image pipeline, whose text is as long as the prompt is."""

from __future__ import annotations

from typing import Any

import torch

from .pipeline import TinyPipeline
from .text import qwen2_5_vl, tokenizer

_CALL = {"height": 256, "width": 256, "negative_prompt": "a", "true_cfg_scale": 4.0}


def _text_to_image(transformer: torch.nn.Module) -> Any:
    from diffusers import (
        AutoencoderKLQwenImage,
        FlowMatchEulerDiscreteScheduler,
        QwenImagePipeline,
    )

    vae = AutoencoderKLQwenImage(
        base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.1] * 4,
        latents_std=[1.5] * 4,
    )  # fmt: skip
    return QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.02),
        vae=vae,
        text_encoder=qwen2_5_vl(32),
        tokenizer=tokenizer(1024),
        transformer=transformer,
    )


PIPELINES = (TinyPipeline("qwen_image", "qwen_image", "qwen_image", _text_to_image, _CALL),)
