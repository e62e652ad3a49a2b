"""Flux.1: images, joint attention, text first, latents packed two by two pixels a token."""

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
    Role,
    Shape,
    joint_text_count,
    patched_grid,
    require_variant,
)
from .shared.adapt import constant_call, constants_device
from .shared.call_arguments import CallArguments, finished_call

_TEXT, _POOLED, _GUIDANCE = "encoder_hidden_states", "pooled_projections", "guidance"
_GUIDANCE_DEFAULT = 3.5
_LARGEST_TEXT = 512
_PACKING = (1, 2, 2)
"""Latent pixels of a token: the pipeline packs 2 x 2 of them into the channels."""


class FluxFamily(ModelFamily):
    """FluxTransformer2DModel, text to image."""

    name = "flux"
    class_names = ("FluxTransformer2DModel",)
    shift_grows_with_tokens = True
    unserved_pipelines: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("FluxKontextPipeline", "FluxKontextInpaintPipeline"),
        "appends the tokens of a reference image to the sequence",
    )
    vae_factors = (1, 8, 8)
    limits: ClassVar[Mapping[str, int]] = {
        "num_layers": 1024,
        "num_single_layers": 1024,
        "num_attention_heads": 1024,
        "attention_head_dim": 1024,
        "in_channels": 4096,
        "joint_attention_dim": 65536,
        "pooled_projection_dim": 65536,
    }

    def check_config(self, config: Config) -> None:
        """Raise ModelError if the config is out of bounds or of an image-conditioned variant."""
        super().check_config(config)
        remedy = "image-conditioned Flux is not supported; use a text-to-image checkpoint"
        require_variant(config, "patch_size", (1,))
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

    def grid(self, config: Config, latent_size: tuple[int, int, int]) -> Grid:  # noqa: ARG002
        """One token for 2 x 2 latent pixels of one image."""
        if latent_size[0] != 1:
            raise ModelError("latent frames", expected="1, an image", actual=str(latent_size[0]))
        return patched_grid(latent_size, _PACKING)

    def latent_shape(self, config: Config, geometry: Geometry) -> Shape:
        """(tokens, packed channels)."""
        return (geometry.grid.tokens, config["in_channels"])

    def text_layout(self, config: Config, prompt: Mapping[str, Shape]) -> TextLayout:  # noqa: ARG002
        """All of the prompt's tokens, in front; padding is attended like text."""
        return TextLayout(joint_text_count(prompt, _TEXT, _LARGEST_TEXT), TextPosition.FIRST)

    def conditioning_spec(
        self, config: Config, geometry: Geometry
    ) -> tuple[ConditioningInput, ...]:
        """Text, the pooled text and, in distilled models, the guidance scale."""
        spec = [
            ConditioningInput(_TEXT, ("B", geometry.text.count, config["joint_attention_dim"])),
            ConditioningInput(_POOLED, ("B", config["pooled_projection_dim"])),
        ]
        if config.get("guidance_embeds"):
            spec.append(
                ConditioningInput(
                    _GUIDANCE, ("B",), torch.float32, Role.SCALAR, default=_GUIDANCE_DEFAULT
                )
            )
        return tuple(spec)

    def constants(self, config: Config, geometry: Geometry) -> dict[str, Tensor]:  # noqa: ARG002
        """Position ids f32 [tokens, 3] of image (0, row, column) and text (zeros)."""
        grid = geometry.grid
        rows, columns = torch.meshgrid(
            torch.arange(grid.height), torch.arange(grid.width), indexing="ij"
        )
        image = torch.stack([torch.zeros_like(rows), rows, columns], dim=-1)
        return {
            "img_ids": image.reshape(-1, 3).float(),
            "txt_ids": torch.zeros(geometry.text.count, 3),
        }

    def adapted(self, model: torch.nn.Module, geometry: Geometry) -> AbstractContextManager[object]:
        """Rotary embeddings, computed in float64 from the ids, as constants."""
        config: Any = model.config
        device = constants_device(model)
        constants = self.constants(config, geometry)
        ids = torch.cat([constants["txt_ids"], constants["img_ids"]]).to(device)
        return constant_call(model.pos_embed, "forward", ids)

    def forward(
        self,
        model: torch.nn.Module,
        geometry: Geometry,  # noqa: ARG002
        latents: Tensor,
        timestep: Tensor,
        inputs: Mapping[str, Tensor],
    ) -> tuple[Tensor, ...]:
        """Velocity [B, tokens, C]; the model's own unit of time is 1."""
        outputs: tuple[Tensor, ...] = model(
            hidden_states=latents,
            encoder_hidden_states=inputs[_TEXT],
            pooled_projections=inputs[_POOLED],
            timestep=timestep / 1000,
            img_ids=inputs["img_ids"],
            txt_ids=inputs["txt_ids"],
            guidance=inputs.get(_GUIDANCE),
            return_dict=False,
        )
        return outputs

    def read_call(self, config: Config, call: Mapping[str, Any]) -> ModelCall:
        """The image's size is that of the position ids: packed latents have a token count alone."""
        arguments = CallArguments(call)
        states = arguments.tensor("hidden_states", ndim=3)
        ids = arguments.tensor("img_ids")
        inputs = arguments.given(_TEXT, _POOLED, _GUIDANCE)
        if config.get("guidance_embeds"):
            inputs[_GUIDANCE] = arguments.tensor(_GUIDANCE)
        rows, columns = (int(last) + 1 for last in ids.reshape(-1, 3).amax(dim=0)[1:])
        return finished_call(
            self,
            config,
            arguments,
            size=(1, rows * _PACKING[1], columns * _PACKING[2]),
            latents=states,
            timestep=arguments.timestep(len(states), scale=1.0),
            inputs=inputs,
        )
