"""Wan (2.1 and 2.2, text to video): self-attention over the video grid, text by cross-attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import ModelError
from ..plan import Grid
from .base import (
    AttentionSite,
    ConditioningInput,
    Config,
    Geometry,
    ModelFamily,
    Shape,
    patched_grid,
    require_variant,
)


class WanFamily(ModelFamily):
    """WanTransformer3DModel without image conditioning."""

    name = "wan"
    class_names = ("WanTransformer3DModel",)
    limits: ClassVar[Mapping[str, int]] = {
        "num_layers": 1024,
        "num_attention_heads": 1024,
        "attention_head_dim": 1024,
        "in_channels": 4096,
        "text_dim": 65536,
        "freq_dim": 65536,
        "ffn_dim": 1 << 20,
        "rope_max_seq_len": 1 << 16,
    }

    def check_config(self, config: Config) -> None:
        """Raise ModelError if the config is out of bounds or of an image-to-video variant."""
        super().check_config(config)
        _patch_size(config)
        if not isinstance(config.get("eps"), float):
            raise ModelError(
                "config.json: eps", expected="a number", actual=repr(config.get("eps"))
            )
        remedy = "image conditioning of Wan is not supported yet; use a T2V checkpoint"
        require_variant(config, "image_dim", (None,), remedy)
        require_variant(config, "added_kv_proj_dim", (None,), remedy)
        require_variant(config, "out_channels", (None, config["in_channels"]), remedy)

    def sites(self, config: Config) -> tuple[AttentionSite, ...]:
        """`blocks.i.attn1` of every block; `attn2` attends the text."""
        heads, head_dim = config["num_attention_heads"], config["attention_head_dim"]
        return tuple(
            AttentionSite(f"blocks.{index}.attn1", heads, heads, head_dim)
            for index in range(config["num_layers"])
        )

    def grid(self, config: Config, latent_size: tuple[int, int, int]) -> Grid:
        """One token a patch, as many along an axis as the rotary embedding has."""
        return patched_grid(latent_size, _patch_size(config), config["rope_max_seq_len"])

    def latent_shape(self, config: Config, geometry: Geometry) -> Shape:
        """(channels, frames, height, width)."""
        grid, (frames, height, width) = geometry.grid, _patch_size(config)
        size = (grid.frames * frames, grid.height * height, grid.width * width)
        return (config["in_channels"], *size)

    def conditioning_spec(
        self,
        config: Config,
        geometry: Geometry,  # noqa: ARG002
    ) -> tuple[ConditioningInput, ...]:
        """The text encoder's output."""
        return (ConditioningInput("encoder_hidden_states", ("B", "L", config["text_dim"])),)

    def forward(
        self,
        model: torch.nn.Module,
        geometry: Geometry,  # noqa: ARG002
        latents: Tensor,
        timestep: Tensor,
        inputs: Mapping[str, Tensor],
    ) -> tuple[Tensor, ...]:
        """Velocity [B, C, F, H, W]."""
        outputs: tuple[Tensor, ...] = model(
            hidden_states=latents,
            timestep=timestep,
            encoder_hidden_states=inputs["encoder_hidden_states"],
            return_dict=False,
        )
        return outputs


def _patch_size(config: Config) -> tuple[int, int, int]:
    value = config.get("patch_size")
    sizes = value if isinstance(value, (list, tuple)) else ()
    if len(sizes) != 3 or not all(type(size) is int and 1 <= size <= 64 for size in sizes):
        raise ModelError(
            "config.json: patch_size",
            expected="three integers in 1..64: frames, height, width",
            actual=repr(value)[:80],
        )
    frames, height, width = sizes
    return frames, height, width
