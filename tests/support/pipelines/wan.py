"""Tiny Wan pipelines: 2.1 text to video."""

from __future__ import annotations

from typing import Any

import torch

from .pipeline import TinyPipeline
from .text import t5, tokenizer

_TEXT_CHANNELS = 16
_CALL = {"height": 128, "width": 128, "num_frames": 5, "max_sequence_length": 12}


def _vae(channels: int = 4, **options: Any) -> Any:
    from diffusers import AutoencoderKLWan

    return AutoencoderKLWan(
        base_dim=4, z_dim=channels, dim_mult=[1, 1, 1, 1], num_res_blocks=1,
        latents_mean=[0.1] * channels, latents_std=[1.5] * channels, **options,
    )  # fmt: skip


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

    return WanPipeline(transformer=transformer, vae=_vae(), scheduler=_scheduler(), **_text())


PIPELINES = (TinyPipeline("wan", "wan", "wan", _text_to_video, _CALL),)
