"""LTX-Video: packed latents of a strongly compressing VAE, text by masked cross-attention."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..plan import Grid
from .base import (
    AttentionSite,
    ConditioningInput,
    Config,
    Geometry,
    ModelCall,
    ModelFamily,
    Role,
    Shape,
    patched_grid,
    require_variant,
)
from .shared.adapt import constant_call, constants_device, tie_batches
from .shared.call_arguments import CallArguments, finished_call

_TEXT, _MASK = "encoder_hidden_states", "encoder_attention_mask"

_FRAMES_PER_SECOND = 25.0
"""What the pipeline takes unless told otherwise; positions in time are in seconds."""

_UNPACKED = (1, 1, 1)
"""Latent pixels of a token: the VAE alone does all the compressing."""


class LtxVideoFamily(ModelFamily):
    """LTXVideoTransformer3DModel, text to video at 25 frames a second."""

    name = "ltx_video"
    class_names = ("LTXVideoTransformer3DModel",)
    shift_grows_with_tokens = True
    unserved_pipelines: ClassVar[Mapping[str, str]] = {
        "LTXImageToVideoPipeline": "gives the tokens of the image a timestep of their own",
        "LTXConditionPipeline": "appends the tokens of conditions, with timesteps of their own",
    }
    vae_factors = (8, 32, 32)
    limits: ClassVar[Mapping[str, int]] = {
        "num_layers": 1024,
        "num_attention_heads": 1024,
        "attention_head_dim": 1024,
        "in_channels": 4096,
        "cross_attention_dim": 1 << 20,
        "caption_channels": 65536,
    }

    def check_config(self, config: Config) -> None:
        """Raise ModelError if the config is out of bounds or its patches are not single pixels."""
        super().check_config(config)
        require_variant(config, "patch_size", (1,))
        require_variant(config, "patch_size_t", (1,))
        require_variant(config, "out_channels", (None, config["in_channels"]))

    def frame_rate(self, config: Config) -> float | None:  # noqa: ARG002
        """Of the positions, which are in seconds."""
        return _FRAMES_PER_SECOND

    def sites(self, config: Config) -> tuple[AttentionSite, ...]:
        """`transformer_blocks.i.attn1` of every block; `attn2` attends the text."""
        heads, head_dim = config["num_attention_heads"], config["attention_head_dim"]
        return tuple(
            AttentionSite(f"transformer_blocks.{index}.attn1", heads, heads, head_dim)
            for index in range(config["num_layers"])
        )

    def grid(self, config: Config, latent_size: tuple[int, int, int]) -> Grid:  # noqa: ARG002
        """One token a latent pixel."""
        return patched_grid(latent_size, _UNPACKED)

    def latent_shape(self, config: Config, geometry: Geometry) -> Shape:
        """(tokens, channels)."""
        return (geometry.grid.tokens, config["in_channels"])

    def conditioning_spec(
        self,
        config: Config,
        geometry: Geometry,  # noqa: ARG002
    ) -> tuple[ConditioningInput, ...]:
        """The text encoder's output and which of its tokens exist."""
        return (
            ConditioningInput(_TEXT, ("B", "L", config["caption_channels"])),
            ConditioningInput(_MASK, ("B", "L"), torch.int32, Role.MASK),
        )

    def adapted(self, model: torch.nn.Module, geometry: Geometry) -> AbstractContextManager[object]:
        """Rotary embeddings, of one sample for the whole batch, as constants."""
        anything = torch.empty(1, device=constants_device(model))
        positions = (*_grid_size(geometry), self._position_scale())
        return constant_call(model.rope, "forward", anything, *positions)

    def forward(
        self,
        model: torch.nn.Module,
        geometry: Geometry,
        latents: Tensor,
        timestep: Tensor,
        inputs: Mapping[str, Tensor],
    ) -> tuple[Tensor, ...]:
        """Velocity [B, tokens, C]."""
        tie_batches(latents, timestep, inputs[_TEXT], inputs[_MASK])
        frames, height, width = _grid_size(geometry)
        outputs: tuple[Tensor, ...] = model(
            hidden_states=latents,
            encoder_hidden_states=inputs[_TEXT],
            timestep=timestep,
            encoder_attention_mask=inputs[_MASK],
            num_frames=frames,
            height=height,
            width=width,
            rope_interpolation_scale=self._position_scale(),
            return_dict=False,
        )
        return outputs

    def read_call(self, config: Config, call: Mapping[str, Any]) -> ModelCall:
        """The video's size is said apart from its latents, and so is its frame rate."""
        arguments = CallArguments(call)
        states = arguments.tensor("hidden_states", ndim=3)
        remedy = f"leave frame_rate at {_FRAMES_PER_SECOND:g}: positions are constants of a file"
        arguments.require("rope_interpolation_scale", self._position_scale(), remedy=remedy)
        inputs = arguments.given(_TEXT)
        inputs[_MASK] = arguments.mask(_MASK, _TEXT)
        return finished_call(
            self,
            config,
            arguments,
            size=arguments.integers("num_frames", "height", "width"),
            latents=states,
            timestep=arguments.timestep(len(states)),
            inputs=inputs,
        )

    def _position_scale(self) -> tuple[float, float, float]:
        """Seconds and pixels that a latent stands for."""
        frames, height, width = self.vae_factors
        return (frames / _FRAMES_PER_SECOND, height, width)


def _grid_size(geometry: Geometry) -> tuple[int, int, int]:
    return (geometry.grid.frames, geometry.grid.height, geometry.grid.width)
