"""A tiny LTX-Video pipeline."""

from __future__ import annotations

from typing import Any

import torch

from .pipeline import TinyPipeline
from .text import t5, tokenizer

_CALL = {"height": 256, "width": 256, "num_frames": 9, "max_sequence_length": 12}


def _text_to_video(transformer: torch.nn.Module) -> Any:
    from diffusers import AutoencoderKLLTXVideo, FlowMatchEulerDiscreteScheduler, LTXPipeline

    vae = AutoencoderKLLTXVideo(
        latent_channels=8, block_out_channels=(4, 4, 4, 4), decoder_block_out_channels=(4, 4, 4, 4),
        layers_per_block=(1, 1, 1, 1, 1), decoder_layers_per_block=(1, 1, 1, 1, 1),
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, base_image_seq_len=1024,
        max_image_seq_len=4096, shift_terminal=0.1,
    )  # fmt: skip
    return LTXPipeline(
        scheduler=scheduler,
        vae=vae,
        text_encoder=t5(16),
        tokenizer=tokenizer(),
        transformer=transformer,
    )


PIPELINES = (TinyPipeline("ltx_video", "ltx_video", "ltx_video", _text_to_video, _CALL),)
