"""HunyuanVideo: joint attention in dual and single blocks, text last, its padding masked."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..plan import Grid, TextLayout, TextPosition
from .base import (
    AttentionSite,
    ConditioningInput,
    Config,
    Geometry,
    ModelCall,
    ModelFamily,
    Role,
    Shape,
    joint_text_count,
    patched_grid,
    require_variant,
)
from .shared.adapt import constant_call, constants_device
from .shared.call_arguments import CallArguments, finished_call

_TEXT, _MASK, _POOLED = "encoder_hidden_states", "encoder_attention_mask", "pooled_projections"
_GUIDANCE = "guidance"
_GUIDANCE_DEFAULT = 6000.0
"""Guidance scale 6 in the model's unit, which is a thousandth: what the pipeline passes."""

_LARGEST_TEXT = 1024


class HunyuanVideoFamily(ModelFamily):
    """HunyuanVideoTransformer3DModel, text to video."""

    name = "hunyuan_video"
    class_names = ("HunyuanVideoTransformer3DModel",)
    limits: ClassVar[Mapping[str, int]] = {
        "num_layers": 1024,
        "num_single_layers": 1024,
        "num_refiner_layers": 1024,
        "num_attention_heads": 1024,
        "attention_head_dim": 1024,
        "in_channels": 4096,
        "text_embed_dim": 65536,
        "pooled_projection_dim": 65536,
        "patch_size": 64,
        "patch_size_t": 64,
    }

    def check_config(self, config: Config) -> None:
        """Raise ModelError if the config is out of bounds or of an image-to-video variant."""
        super().check_config(config)
        remedy = "image conditioning of HunyuanVideo is not supported; use a T2V checkpoint"
        require_variant(config, "image_condition_type", (None,), remedy)
        require_variant(config, "out_channels", (None, config["in_channels"]), remedy)

    def sites(self, config: Config) -> tuple[AttentionSite, ...]:
        """The dual blocks' attentions, then the single blocks'."""
        heads, head_dim = config["num_attention_heads"], config["attention_head_dim"]
        blocks = {
            "transformer_blocks": config["num_layers"],
            "single_transformer_blocks": config["num_single_layers"],
        }
        return tuple(
            AttentionSite(f"{kind}.{index}.attn", heads, heads, head_dim)
            for kind, count in blocks.items()
            for index in range(count)
        )

    def grid(self, config: Config, latent_size: tuple[int, int, int]) -> Grid:
        """One token a patch."""
        return patched_grid(latent_size, _patch(config))

    def latent_shape(self, config: Config, geometry: Geometry) -> Shape:
        """(channels, frames, height, width)."""
        grid, (frames, height, width) = geometry.grid, _patch(config)
        size = (grid.frames * frames, grid.height * height, grid.width * width)
        return (config["in_channels"], *size)

    def text_layout(self, config: Config, prompt: Mapping[str, Shape]) -> TextLayout:  # noqa: ARG002
        """The prompt's tokens at the end, padded to one length."""
        count = joint_text_count(prompt, _TEXT, _LARGEST_TEXT)
        return TextLayout(count, TextPosition.LAST, padded=True)

    def text_length(self, conditioning: Mapping[str, Tensor]) -> Tensor:
        """Ones of the mask, whose padding is at its end."""
        return conditioning[_MASK].sum(dim=1)

    def conditioning_spec(
        self, config: Config, geometry: Geometry
    ) -> tuple[ConditioningInput, ...]:
        """Text, its mask, the pooled text and, in distilled models, the guidance scale x 1000."""
        count = geometry.text.count
        spec = [
            ConditioningInput(_TEXT, ("B", count, config["text_embed_dim"])),
            ConditioningInput(_MASK, ("B", count), torch.int32, Role.MASK),
            ConditioningInput(_POOLED, ("B", config["pooled_projection_dim"])),
        ]
        if config.get("guidance_embeds"):
            spec.append(
                ConditioningInput(
                    _GUIDANCE, ("B",), torch.float32, Role.SCALAR, default=_GUIDANCE_DEFAULT
                )
            )
        return tuple(spec)

    def adapted(self, model: torch.nn.Module, geometry: Geometry) -> AbstractContextManager[object]:
        """Rotary embeddings as constants."""
        config: Any = model.config
        device = constants_device(model)
        latents = torch.empty(1, *self.latent_shape(config, geometry), device=device)
        return constant_call(model.rope, "forward", latents)

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
            encoder_hidden_states=inputs[_TEXT],
            encoder_attention_mask=inputs[_MASK],
            pooled_projections=inputs[_POOLED],
            guidance=inputs.get(_GUIDANCE),
            return_dict=False,
        )
        return outputs

    def read_call(self, config: Config, call: Mapping[str, Any]) -> ModelCall:
        """Pipelines pass a guidance scale to undistilled models too, which do not look at it."""
        arguments = CallArguments(call)
        states = arguments.tensor("hidden_states", ndim=5)
        inputs = arguments.given(_TEXT, _POOLED)
        inputs[_MASK] = arguments.mask(_MASK, _TEXT)
        if config.get("guidance_embeds"):
            inputs[_GUIDANCE] = arguments.tensor(_GUIDANCE)
        arguments.optional(_GUIDANCE)
        frames, height, width = states.shape[2:]
        return finished_call(
            self,
            config,
            arguments,
            size=(frames, height, width),
            latents=states,
            timestep=arguments.timestep(len(states)),
            inputs=inputs,
        )


def _patch(config: Config) -> tuple[int, int, int]:
    return (config["patch_size_t"], config["patch_size"], config["patch_size"])
