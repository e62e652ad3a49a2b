"""Flux.2: images from text and reference images, joint attention, text first, packed latents."""

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
    require_variant,
)
from .shared.adapt import constants_device, on_device_of, replaced
from .shared.call_arguments import CallArguments, finished_call
from .shared.diffusers_range import check_diffusers
from .shared.packed_images import (
    packed_grid,
    packed_shape,
    reference_inputs,
    references_of,
    require_rotary_axes,
    with_reference_outputs,
    with_references,
)

_TEXT, _GUIDANCE = "encoder_hidden_states", "guidance"
_GUIDANCE_DEFAULT = 4.0
_LARGEST_TEXT = 512
_OLDEST_DIFFUSERS = (0, 37)
"""Before, all models were dev."""

_REFERENCE_DISTANCE = 10
"""Between images on the rotary embedding's first axis, as the pipeline counts it."""


class Flux2Family(ModelFamily):
    """Flux2Transformer2DModel: dev and klein, text to image or with reference images.

    A grid of F frames is the output and F - 1 references of its size.
    """

    name = "flux2"
    class_names = ("Flux2Transformer2DModel",)
    vae_factors = (1, 8, 8)
    limits: ClassVar[Mapping[str, int]] = {
        "num_layers": 1024,
        "num_single_layers": 1024,
        "num_attention_heads": 1024,
        "attention_head_dim": 1024,
        "in_channels": 4096,
        "joint_attention_dim": 65536,
        "timestep_guidance_channels": 65536,
    }

    def check_config(self, config: Config) -> None:
        """Raise ModelError if the config is out of bounds or its output is no velocity."""
        check_diffusers(_OLDEST_DIFFUSERS)
        super().check_config(config)
        require_variant(config, "patch_size", (1,))
        require_variant(config, "out_channels", (None, config["in_channels"]))
        require_rotary_axes(config, 4)

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
        """One token for 2 x 2 latent pixels of each image."""
        return packed_grid(latent_size)

    def latent_shape(self, config: Config, geometry: Geometry) -> Shape:
        """(tokens, packed channels) of the output image."""
        return packed_shape(config["in_channels"], geometry.grid)

    def text_layout(self, config: Config, prompt: Mapping[str, Shape]) -> TextLayout:  # noqa: ARG002
        """All of the prompt's tokens, in front; padding is attended like text."""
        return TextLayout(joint_text_count(prompt, _TEXT, _LARGEST_TEXT), TextPosition.FIRST)

    def conditioning_spec(
        self, config: Config, geometry: Geometry
    ) -> tuple[ConditioningInput, ...]:
        """Text; in distilled models the guidance scale; packed latents of the references."""
        spec = [ConditioningInput(_TEXT, ("B", geometry.text.count, config["joint_attention_dim"]))]
        if config.get("guidance_embeds"):
            spec.append(
                ConditioningInput(
                    _GUIDANCE, ("B",), torch.float32, Role.SCALAR, default=_GUIDANCE_DEFAULT
                )
            )
        return (*spec, *reference_inputs(config["in_channels"], geometry.grid))

    def constants(self, config: Config, geometry: Geometry) -> dict[str, Tensor]:  # noqa: ARG002
        """Position ids [tokens, 4]: (image, row, column, 0) f32 and (0, 0, 0, token) int32.

        The two types are what `adapted` tells image and text by; the model makes both f32.
        """
        grid = geometry.grid
        images = torch.arange(grid.frames) * _REFERENCE_DISTANCE
        axes = (images, torch.arange(grid.height), torch.arange(grid.width), torch.zeros(1))
        text = torch.zeros(geometry.text.count, 4, dtype=torch.int32)
        text[:, 3] = torch.arange(geometry.text.count)
        return {"img_ids": torch.cartesian_prod(*(axis.float() for axis in axes)), "txt_ids": text}

    def adapted(self, model: torch.nn.Module, geometry: Geometry) -> AbstractContextManager[object]:
        """Rotary embeddings, computed in float64 from the ids, as constants."""
        embed: Any = model.pos_embed
        device = constants_device(model)
        constants = self.constants({}, geometry)
        with torch.no_grad():
            image, text = (embed(constants[name].to(device)) for name in ("img_ids", "txt_ids"))

        def rotary(ids: Tensor) -> Any:
            return on_device_of(image if ids.is_floating_point() else text, ids)

        return replaced(embed, "forward", rotary)

    def forward(
        self,
        model: torch.nn.Module,
        geometry: Geometry,  # noqa: ARG002
        latents: Tensor,
        timestep: Tensor,
        inputs: Mapping[str, Tensor],
    ) -> tuple[Tensor, ...]:
        """Velocity [B, tokens, C] of the output image; the model's own unit of time is 1."""
        (sample,) = model(
            hidden_states=with_references(latents, inputs),
            encoder_hidden_states=inputs[_TEXT],
            timestep=timestep / 1000,
            img_ids=inputs["img_ids"],
            txt_ids=inputs["txt_ids"],
            guidance=inputs.get(_GUIDANCE),
            return_dict=False,
        )
        return (sample[:, : latents.shape[1]],)

    def read_call(self, config: Config, call: Mapping[str, Any]) -> ModelCall:
        """Images and their size are those of the position ids."""
        arguments = CallArguments(call)
        states = arguments.tensor("hidden_states", ndim=3)
        last = arguments.tensor("img_ids").reshape(-1, 4).amax(dim=0).tolist()
        images = round(last[0]) // _REFERENCE_DISTANCE + 1
        rows, columns = round(last[1]) + 1, round(last[2]) + 1
        latents, references = references_of(states, rows * columns)
        inputs = arguments.given(_TEXT) | references
        if config.get("guidance_embeds"):
            inputs[_GUIDANCE] = arguments.tensor(_GUIDANCE)
        # The model without it does not look at it.
        arguments.optional(_GUIDANCE)
        return finished_call(
            self,
            config,
            arguments,
            size=(images, 2 * rows, 2 * columns),
            latents=latents,
            timestep=arguments.timestep(len(states), scale=1.0),
            inputs=inputs,
        )

    def call_output(
        self,
        config: Config,  # noqa: ARG002
        call: Mapping[str, Any],
        outputs: tuple[Tensor, ...],
    ) -> tuple[Tensor, ...]:
        """Zeros for the references' tokens, which pipelines cut off."""
        return (with_reference_outputs(outputs[0], call["hidden_states"]),)
