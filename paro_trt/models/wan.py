"""Wan (2.1 and 2.2, text to video): self-attention over the video grid, text by cross-attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import ModelError
from ..plan import Grid, TextLayout
from .base import AttentionSite, ConditioningInput, require_integer

_LARGEST = {
    "num_layers": 1024,
    "num_attention_heads": 1024,
    "attention_head_dim": 1024,
    "in_channels": 4096,
    "text_dim": 65536,
    "freq_dim": 65536,
    "ffn_dim": 1 << 20,
    "rope_max_seq_len": 1 << 16,
}
"""Bounds far above any released Wan, so that a hostile config cannot ask for the machine."""


class WanFamily:
    """WanTransformer3DModel without image conditioning."""

    name = "wan"
    class_names = ("WanTransformer3DModel",)

    def check_config(self, config: Mapping[str, Any]) -> None:
        """Raise ModelError if the config is out of bounds or of an image-to-video variant."""
        for key, largest in _LARGEST.items():
            require_integer(config, key, largest)
        _patch_size(config)
        if not isinstance(config.get("eps"), float):
            raise ModelError(
                "config.json: eps", expected="a number", actual=repr(config.get("eps"))
            )
        in_channels = config["in_channels"]
        for key, allowed in {
            "image_dim": (None,),
            "added_kv_proj_dim": (None,),
            "out_channels": (None, in_channels),
        }.items():
            if config.get(key) not in allowed:
                raise ModelError(
                    f"config.json: {key}",
                    expected=f"{allowed[-1]}, as in a text-to-video model",
                    actual=repr(config[key])[:80],
                    remedy="image conditioning of Wan is not supported yet; use a T2V checkpoint",
                )

    def sites(self, model: torch.nn.Module) -> tuple[AttentionSite, ...]:
        """`blocks.i.attn1` of every block; `attn2` attends the text."""
        config: Any = model.config
        heads, head_dim = config["num_attention_heads"], config["attention_head_dim"]
        return tuple(
            AttentionSite(f"blocks.{index}.attn1", heads, heads, head_dim)
            for index in range(config["num_layers"])
        )

    def grid(self, config: Mapping[str, Any], latent_size: tuple[int, int, int]) -> Grid:
        """One token a patch; ModelError where a size is not a multiple of its patch."""
        patch = _patch_size(config)
        limit = config["rope_max_seq_len"]
        for axis, size, step in zip(("frames", "height", "width"), latent_size, patch, strict=True):
            if size < step or size % step or size // step > limit:
                raise ModelError(
                    f"latent {axis}",
                    expected=f"a multiple of the patch size {step} up to {limit * step}",
                    actual=str(size),
                    remedy="choose another resolution or number of frames",
                )
        return Grid(*(size // step for size, step in zip(latent_size, patch, strict=True)))

    def latent_shape(self, config: Mapping[str, Any], grid: Grid) -> tuple[int, int, int, int]:
        """(channels, frames, height, width) of the latents that a grid stands for."""
        frames, height, width = _patch_size(config)
        return (
            config["in_channels"],
            grid.frames * frames,
            grid.height * height,
            grid.width * width,
        )

    def text_layout(self, config: Mapping[str, Any]) -> TextLayout:  # noqa: ARG002
        """No text among the visual tokens."""
        return TextLayout()

    def conditioning_spec(self, config: Mapping[str, Any]) -> tuple[ConditioningInput, ...]:
        """The text encoder's output."""
        return (ConditioningInput("encoder_hidden_states", ("B", "L", config["text_dim"])),)

    def forward(
        self,
        model: torch.nn.Module,
        latents: Tensor,
        timestep: Tensor,
        conditioning: Mapping[str, Tensor],
    ) -> Tensor:
        """Velocity [B, C, F, H, W] of latents [B, C, F, H, W] at timesteps [B] (0..1000)."""
        sample: Tensor = model(
            hidden_states=latents,
            timestep=timestep,
            encoder_hidden_states=conditioning["encoder_hidden_states"],
            return_dict=False,
        )[0]
        return sample


def _patch_size(config: Mapping[str, Any]) -> tuple[int, int, int]:
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
