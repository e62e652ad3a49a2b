"""A tiny Mochi pipeline."""

from __future__ import annotations

from typing import Any

import torch

from .pipeline import TinyPipeline
from .text import t5, tokenizer

_CALL = {"height": 128, "width": 128, "num_frames": 7, "max_sequence_length": 20}


def _text_to_video(transformer: torch.nn.Module) -> Any:
    from diffusers import AutoencoderKLMochi, FlowMatchEulerDiscreteScheduler, MochiPipeline

    vae = AutoencoderKLMochi(
        latent_channels=12, encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32), layers_per_block=(1, 1, 1, 1, 1),
        latents_mean=(0.1,) * 12, latents_std=(1.5,) * 12,
    )  # fmt: skip
    return MochiPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
        vae=vae,
        text_encoder=t5(16),
        tokenizer=tokenizer(20),
        transformer=transformer,
        force_zeros_for_empty_prompt=True,
    )


PIPELINES = (TinyPipeline("mochi", "mochi", "mochi", _text_to_video, _CALL),)
