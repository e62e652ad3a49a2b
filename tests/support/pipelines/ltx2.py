"""A tiny LTX-2 pipeline: video with sound."""

from __future__ import annotations

from typing import Any

import torch

from .pipeline import TinyPipeline
from .text import gemma3, tokenizer

_CALL = {
    "height": 256,
    "width": 256,
    "num_frames": 9,
    "max_sequence_length": 16,
    # Passes that skip attention layers or part video and sound are refused.
    "stg_scale": 0.0,
    "audio_stg_scale": 0.0,
    "modality_scale": 1.0,
    "audio_modality_scale": 1.0,
}


def _text_to_video(transformer: torch.nn.Module) -> Any:
    from diffusers import (
        AutoencoderKLLTX2Audio,
        AutoencoderKLLTX2Video,
        FlowMatchEulerDiscreteScheduler,
        LTX2Pipeline,
    )
    from diffusers.pipelines.ltx2 import LTX2TextConnectors, LTX2Vocoder

    connectors = LTX2TextConnectors(
        caption_channels=12, text_proj_in_factor=3, video_connector_num_attention_heads=2,
        video_connector_attention_head_dim=6, video_connector_num_layers=1,
        video_connector_num_learnable_registers=None, audio_connector_num_attention_heads=2,
        audio_connector_attention_head_dim=6, audio_connector_num_layers=1,
        audio_connector_num_learnable_registers=None, rope_type="split",
    )  # fmt: skip
    vae = AutoencoderKLLTX2Video(
        latent_channels=8, block_out_channels=(4, 4, 4, 4), decoder_block_out_channels=(16, 32, 64),
        spatial_compression_ratio=32, temporal_compression_ratio=8,
        layers_per_block=(1, 1, 1, 1, 1), decoder_layers_per_block=(1, 1, 1, 1),
    )  # fmt: skip
    audio_vae = AutoencoderKLLTX2Audio(
        base_channels=8, ch_mult=(1, 1, 1), num_res_blocks=1, latent_channels=2, mel_bins=16
    )
    vocoder = LTX2Vocoder(
        in_channels=32, hidden_channels=32, out_channels=2, upsample_kernel_sizes=[4, 4],
        upsample_factors=[2, 2], resnet_kernel_sizes=[3], resnet_dilations=[[1, 3, 5]],
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, base_image_seq_len=1024,
        max_image_seq_len=4096, shift_terminal=0.1,
    )  # fmt: skip
    return LTX2Pipeline(
        scheduler=scheduler,
        vae=vae,
        audio_vae=audio_vae,
        text_encoder=gemma3(12),
        tokenizer=tokenizer(16),
        connectors=connectors.requires_grad_(False).eval(),
        transformer=transformer,
        vocoder=vocoder,
    )


PIPELINES = (TinyPipeline("ltx2", "ltx2", "ltx2", _text_to_video, _CALL),)
