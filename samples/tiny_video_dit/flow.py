"""The model's architecture and its flow-matching loss, in the convention of Wan in diffusers.

x_sigma = (1 - sigma) * video + sigma * noise; the model predicts the velocity noise - video; its
timestep input is sigma * 1000.
"""

from pathlib import Path

import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file

from .text import TEXT_DIM

TIMESTEPS = 1000
# 64 x 64 pixels are strongly correlated, so most noise levels leave the scene legible; the shift
# moves sampling, and training with it, to the levels that decide shape, colour and direction.
SIGMA_SHIFT = 3.0


def build_model() -> WanTransformer3DModel:
    """A fresh transformer: pixel space, 1 x 4 x 4 patches, 4 layers, 3 heads of 64 channels."""
    return WanTransformer3DModel(
        patch_size=(1, 4, 4),
        num_attention_heads=3,
        attention_head_dim=64,
        in_channels=3,
        out_channels=3,
        text_dim=TEXT_DIM,
        freq_dim=256,
        ffn_dim=640,
        num_layers=4,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=64,
    )


def load_model(directory: Path) -> WanTransformer3DModel:
    """The transformer of a diffusers directory in FP32, in evaluation mode.

    `from_pretrained` gives the same, but needs the accelerate package for this class.
    """
    model = WanTransformer3DModel.from_config(WanTransformer3DModel.load_config(directory))
    model.load_state_dict(load_file(directory / "diffusion_pytorch_model.safetensors"))
    return model.eval()


def shift_sigma(uniform: torch.Tensor, shift: float = SIGMA_SHIFT) -> torch.Tensor:
    """Noise levels in [0, 1] from uniform ones, spaced as a scheduler with this `shift` steps."""
    return shift * uniform / (1 + (shift - 1) * uniform)


def velocity_errors(
    model: WanTransformer3DModel,
    videos: torch.Tensor,
    prompt_embeds: torch.Tensor,
    noise: torch.Tensor,
    sigma: torch.Tensor,
) -> torch.Tensor:
    """Mean squared velocity error of each sample, [B] f32.

    `videos` and `noise` are [B, 3, F, S, S] f32, `prompt_embeds` [B, L, 32] f32, `sigma` [B] f32.
    """
    level = sigma.view(-1, 1, 1, 1, 1)
    noisy = (1 - level) * videos + level * noise
    velocity = model(noisy, sigma * TIMESTEPS, prompt_embeds, return_dict=False)[0]
    return (velocity.float() - (noise - videos)).pow(2).mean(dim=(1, 2, 3, 4))
