"""Tiny Wan pipelines: 2.1 and 2.2, from text, from an image, and of two experts."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from .images import autoencoder_wan, picture
from .pipeline import TinyPipeline
from .text import clip_images, clip_vision, t5, tokenizer

_TEXT_CHANNELS = 16
_CALL = {"height": 128, "width": 128, "num_frames": 5, "max_sequence_length": 12}


def _text() -> dict[str, Any]:
    return {
        "tokenizer": tokenizer(),
        "text_encoder": t5(_TEXT_CHANNELS, multilingual=True),
    }


def _scheduler(shift: float = 3.0) -> Any:
    from diffusers import UniPCMultistepScheduler

    return UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
    )


def _text_to_video(transformer: torch.nn.Module) -> Any:
    from diffusers import WanPipeline

    return WanPipeline(
        transformer=transformer, vae=autoencoder_wan(), scheduler=_scheduler(), **_text()
    )


def _two_experts(transformer: torch.nn.Module) -> Any:
    from diffusers import WanPipeline

    return WanPipeline(
        transformer=transformer,
        transformer_2=type(transformer)
        .from_config(transformer.config)
        .requires_grad_(False)
        .eval(),
        boundary_ratio=0.875,
        vae=autoencoder_wan(),
        scheduler=_scheduler(),
        **_text(),
    )


def _image_to_video(transformer: torch.nn.Module) -> Any:
    from diffusers import WanImageToVideoPipeline

    return WanImageToVideoPipeline(
        transformer=transformer,
        vae=autoencoder_wan(),
        scheduler=_scheduler(),
        image_processor=clip_images(),
        image_encoder=clip_vision(24, tokens=257) if transformer.config["image_dim"] else None,
        **_text(),
    )


def _text_and_image_to_video(transformer: torch.nn.Module, *, image: bool) -> Any:
    from diffusers import WanImageToVideoPipeline, WanPipeline

    vae = autoencoder_wan(
        48, is_residual=True, in_channels=12, out_channels=12, patch_size=2, scale_factor_spatial=16
    )
    return (WanImageToVideoPipeline if image else WanPipeline)(
        transformer=transformer,
        vae=vae,
        scheduler=_scheduler(5.0),
        expand_timesteps=True,
        **_text(),
    )


_IMAGE = {"image": picture(128, 128)}
_CLIP_TEXT = {"max_sequence_length": 512}

PIPELINES = (
    TinyPipeline("wan", "wan", "wan", _text_to_video, _CALL),
    # Four steps: two of each expert.
    TinyPipeline("wan-2.2-a14b", "wan", "wan", _two_experts, _CALL | {"num_inference_steps": 4}),
    TinyPipeline("wan-2.2-i2v", "wan", "wan-2.2-i2v", _image_to_video, _CALL | _IMAGE),
    TinyPipeline("wan-2.1-i2v", "wan", "wan-2.1-i2v", _image_to_video, _CALL | _IMAGE | _CLIP_TEXT),
    TinyPipeline(
        "wan-2.2-ti2v",
        "wan",
        "wan-2.2-ti2v",
        partial(_text_and_image_to_video, image=False),
        _CALL | {"height": 256, "width": 256},
    ),
    TinyPipeline(
        "wan-2.2-ti2v-image",
        "wan",
        "wan-2.2-ti2v",
        partial(_text_and_image_to_video, image=True),
        _CALL | {"height": 256, "width": 256, "image": picture(256, 256)},
    ),
)
