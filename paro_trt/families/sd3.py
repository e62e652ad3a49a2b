"""Stable Diffusion 3 and 3.5: images, joint attention, text last."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import ModelError
from ..plan import Grid, TextLayout, TextPosition
from .base import (
    AttentionSite,
    ConditioningInput,
    Config,
    Geometry,
    ModelCall,
    ModelFamily,
    Shape,
    joint_text_count,
    patched_grid,
    require_variant,
)
from .shared.adapt import ReplacedFunctions
from .shared.call_arguments import CallArguments, finished_call

_TEXT, _POOLED = "encoder_hidden_states", "pooled_projections"
_LARGEST_TEXT = 77 + 512
"""CLIP's tokens, then as many of T5 as the pipeline allows."""


class Sd3Family(ModelFamily):
    """SD3Transformer2DModel: 3.0 and 3.5, medium and large.

    The second attention of 3.5 medium's first blocks sees the image without the text. A plan's
    orders are of the joint sequence, so that it stays dense.
    """

    name = "sd3"
    class_names = ("SD3Transformer2DModel",)
    shift_grows_with_tokens = True
    vae_factors = (1, 8, 8)
    limits: ClassVar[Mapping[str, int]] = {
        "sample_size": 1 << 14,
        "patch_size": 64,
        "in_channels": 4096,
        "num_layers": 1024,
        "num_attention_heads": 1024,
        "attention_head_dim": 1024,
        "joint_attention_dim": 65536,
        "caption_projection_dim": 1 << 20,
        "pooled_projection_dim": 65536,
        "pos_embed_max_size": 1 << 12,
    }

    def check_config(self, config: Config) -> None:
        """Raise ModelError if the config is out of bounds or its parts do not fit together."""
        super().check_config(config)
        require_variant(config, "out_channels", (None, config["in_channels"]))
        width = config["num_attention_heads"] * config["attention_head_dim"]
        require_variant(config, "caption_projection_dim", (width,))
        require_variant(config, "qk_norm", (None, "rms_norm"))

    def sites(self, config: Config) -> tuple[AttentionSite, ...]:
        """`transformer_blocks.i.attn` of every block."""
        heads, head_dim = config["num_attention_heads"], config["attention_head_dim"]
        return tuple(
            AttentionSite(f"transformer_blocks.{index}.attn", heads, heads, head_dim)
            for index in range(config["num_layers"])
        )

    def grid(self, config: Config, latent_size: tuple[int, int, int]) -> Grid:
        """One token a patch of one image, at most as many as there are position embeddings."""
        if latent_size[0] != 1:
            raise ModelError("latent frames", expected="1, an image", actual=str(latent_size[0]))
        return patched_grid(latent_size, _patch(config), config["pos_embed_max_size"])

    def latent_shape(self, config: Config, geometry: Geometry) -> Shape:
        """(channels, height, width)."""
        _, height, width = _patch(config)
        size = (geometry.grid.height * height, geometry.grid.width * width)
        return (config["in_channels"], *size)

    def text_layout(self, config: Config, prompt: Mapping[str, Shape]) -> TextLayout:  # noqa: ARG002
        """All of the prompt's tokens, behind the image's; padding is attended like text."""
        return TextLayout(joint_text_count(prompt, _TEXT, _LARGEST_TEXT), TextPosition.LAST)

    def conditioning_spec(
        self, config: Config, geometry: Geometry
    ) -> tuple[ConditioningInput, ...]:
        """Text and the pooled text."""
        return (
            ConditioningInput(_TEXT, ("B", geometry.text.count, config["joint_attention_dim"])),
            ConditioningInput(_POOLED, ("B", config["pooled_projection_dim"])),
        )

    def adapted(
        self,
        model: torch.nn.Module,  # noqa: ARG002
        geometry: Geometry,  # noqa: ARG002
    ) -> AbstractContextManager[object]:
        """Unpatching as a permutation: ONNX's Einsum has no bfloat16."""
        return ReplacedFunctions({torch.einsum: permuted})

    def forward(
        self,
        model: torch.nn.Module,
        geometry: Geometry,  # noqa: ARG002
        latents: Tensor,
        timestep: Tensor,
        inputs: Mapping[str, Tensor],
    ) -> tuple[Tensor, ...]:
        """Velocity [B, C, H, W]."""
        outputs: tuple[Tensor, ...] = model(
            hidden_states=latents,
            encoder_hidden_states=inputs[_TEXT],
            pooled_projections=inputs[_POOLED],
            timestep=timestep,
            return_dict=False,
        )
        return outputs

    def read_call(self, config: Config, call: Mapping[str, Any]) -> ModelCall:
        """As it is."""
        arguments = CallArguments(call)
        states = arguments.tensor("hidden_states", ndim=4)
        height, width = states.shape[2:]
        return finished_call(
            self,
            config,
            arguments,
            size=(1, height, width),
            latents=states,
            timestep=arguments.timestep(len(states)),
            inputs=arguments.given(_TEXT, _POOLED),
        )


def _patch(config: Config) -> tuple[int, int, int]:
    return (1, config["patch_size"], config["patch_size"])


def permuted(equation: str, *tensors: Tensor) -> Tensor:
    """torch.einsum; of one tensor whose axes are all kept, such as "abc->cab", a permutation."""
    before, arrow, after = equation.partition("->")
    if not arrow or len(tensors) > 1 or sorted(before) != sorted(after):
        return torch.einsum(equation, *tensors)
    return tensors[0].permute([before.index(axis) for axis in after])
