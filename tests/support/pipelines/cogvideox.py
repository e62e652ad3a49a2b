"""Tiny CogVideoX pipelines: 1.0 and 1.5, text to video, and 1.5 image to video."""

from __future__ import annotations

from typing import Any

import torch

from .images import picture
from .pipeline import TinyPipeline
from .text import t5, tokenizer

_CALL = {"height": 128, "width": 128, "num_frames": 9, "max_sequence_length": 12}
_CALL_1_5 = _CALL | {"num_frames": 21}


def _parts(transformer: torch.nn.Module) -> dict[str, Any]:
    from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler

    vae = AutoencoderKLCogVideoX(
        block_out_channels=(4, 4, 4, 4), latent_channels=4, layers_per_block=1, norm_num_groups=2,
        down_block_types=("CogVideoXDownBlock3D",) * 4, up_block_types=("CogVideoXUpBlock3D",) * 4,
    )  # fmt: skip
    scheduler = CogVideoXDDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False,
        prediction_type="v_prediction", rescale_betas_zero_snr=True, set_alpha_to_one=True,
        snr_shift_scale=3.0, timestep_spacing="trailing",
    )  # fmt: skip
    return {
        "tokenizer": tokenizer(),
        "text_encoder": t5(16),
        "vae": vae,
        "transformer": transformer,
        "scheduler": scheduler,
    }


def _text_to_video(transformer: torch.nn.Module) -> Any:
    from diffusers import CogVideoXPipeline

    return CogVideoXPipeline(**_parts(transformer))


def _image_to_video(transformer: torch.nn.Module) -> Any:
    from diffusers import CogVideoXImageToVideoPipeline

    return CogVideoXImageToVideoPipeline(**_parts(transformer))


PIPELINES = (
    TinyPipeline("cogvideox", "cogvideox", "cogvideox", _text_to_video, _CALL),
    TinyPipeline("cogvideox-1.5", "cogvideox", "cogvideox-1.5", _text_to_video, _CALL_1_5),
    TinyPipeline(
        "cogvideox-1.5-i2v",
        "cogvideox",
        "cogvideox-1.5-i2v",
        _image_to_video,
        _CALL_1_5 | {"image": picture(128, 128)},
    ),
)
