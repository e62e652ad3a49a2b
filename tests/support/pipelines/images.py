"""Parts that pipelines of images and of videos share."""

from __future__ import annotations

from typing import Any


def autoencoder_kl(channels: int) -> Any:
    """The VAE of images whose latents have a factor of 8."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(4, 4, 4, 4), down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=channels, norm_num_groups=1,
        layers_per_block=1, scaling_factor=0.36, shift_factor=0.12,
        use_quant_conv=False, use_post_quant_conv=False,
    )  # fmt: skip


def autoencoder_wan(channels: int = 4, **options: Any) -> Any:
    """The VAE of Wan 2.1: factors of 4 in time and 8 in space."""
    from diffusers import AutoencoderKLWan

    return AutoencoderKLWan(
        base_dim=4, z_dim=channels, dim_mult=[1, 1, 1, 1], num_res_blocks=1,
        latents_mean=[0.1] * channels, latents_std=[1.5] * channels, **options,
    )  # fmt: skip


def picture(height: int, width: int) -> Any:
    """A picture to begin with: a slope of red and green."""
    import numpy as np
    from PIL import Image

    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width)
    pixels[..., 1] = np.linspace(0, 255, height)[:, None]
    return Image.fromarray(pixels)
