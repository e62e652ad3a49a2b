"""A Wan transformer small enough for tests: random weights, the real architecture."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

LATENT_SHAPE = (4, 2, 16, 16)
"""Channels, frames, height, width of the latents whose grid is 2 x 8 x 8 = 128 tokens."""

TEXT_TOKENS, TEXT_DIM = 5, 16


TINY_WAN_CONFIG: dict[str, Any] = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 2,
    "attention_head_dim": 64,
    "in_channels": LATENT_SHAPE[0],
    "out_channels": LATENT_SHAPE[0],
    "text_dim": TEXT_DIM,
    "freq_dim": 32,
    "ffn_dim": 64,
    "num_layers": 2,
    "cross_attn_norm": True,
    "rope_max_seq_len": 32,
}


def tiny_wan(seed: int = 0, **config: Any) -> torch.nn.Module:
    """WanTransformer3DModel of 2 layers, 2 heads of 64 channels, in eval mode."""
    from diffusers import WanTransformer3DModel

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: torch.nn.Module = WanTransformer3DModel(**(TINY_WAN_CONFIG | config))
    return model.requires_grad_(False).eval()


def tiny_wan_inputs(batch: int, seed: int = 0) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Latents [B, 4, 2, 16, 16], timesteps [B] over the whole schedule, conditioning; none
    centred on zero."""
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(batch, *LATENT_SHAPE, generator=generator) + 0.3
    timestep = torch.linspace(950.0, 50.0, batch)
    text = torch.randn(batch, TEXT_TOKENS, TEXT_DIM, generator=generator) - 0.2
    return latents, timestep, {"encoder_hidden_states": text}
