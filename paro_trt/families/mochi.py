"""Mochi: joint attention, text last and padded, rotary frequencies learned for each head."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import ModelError
from ..plan import Grid, TextLayout, TextPosition
from .base import (
    TIMESTEPS,
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
from .shared.adapt import constant_call, constants_device, replaced
from .shared.call_arguments import CallArguments, finished_call
from .shared.joint_attention import attend_text_last, project_heads

_TEXT, _MASK = "encoder_hidden_states", "encoder_attention_mask"
_POOLING_HEADS = 8
"""Of the attention that pools the text, whatever the config."""


class MochiFamily(ModelFamily):
    """MochiTransformer3DModel, text to video."""

    name = "mochi"
    class_names = ("MochiTransformer3DModel",)
    vae_factors = (6, 8, 8)
    limits: ClassVar[Mapping[str, int]] = {
        "patch_size": 64,
        "num_attention_heads": 1024,
        "attention_head_dim": 1024,
        "num_layers": 1024,
        "pooled_projection_dim": 65536,
        "in_channels": 4096,
        "text_embed_dim": 65536,
        "time_embed_dim": 65536,
        "max_sequence_length": 1 << 16,
    }

    def check_config(self, config: Config) -> None:
        """Raise ModelError if the config is out of bounds or its output is no velocity."""
        super().check_config(config)
        require_variant(config, "out_channels", (None, config["in_channels"]))
        if config["text_embed_dim"] % _POOLING_HEADS:
            raise ModelError(
                "config.json: text_embed_dim",
                expected=f"a multiple of {_POOLING_HEADS}",
                actual=str(config["text_embed_dim"]),
            )

    def sites(self, config: Config) -> tuple[AttentionSite, ...]:
        """`transformer_blocks.i.attn1` of every block."""
        heads, head_dim = config["num_attention_heads"], config["attention_head_dim"]
        return tuple(
            AttentionSite(f"transformer_blocks.{index}.attn1", heads, heads, head_dim)
            for index in range(config["num_layers"])
        )

    def grid(self, config: Config, latent_size: tuple[int, int, int]) -> Grid:
        """One token a patch."""
        return patched_grid(latent_size, _patch(config))

    def latent_shape(self, config: Config, geometry: Geometry) -> Shape:
        """(channels, frames, height, width)."""
        grid, (_, height, width) = geometry.grid, _patch(config)
        return (config["in_channels"], grid.frames, grid.height * height, grid.width * width)

    def text_layout(self, config: Config, prompt: Mapping[str, Shape]) -> TextLayout:
        """The prompt's tokens at the end, padded to one length."""
        count = joint_text_count(prompt, _TEXT, config["max_sequence_length"])
        return TextLayout(count, TextPosition.LAST, padded=True)

    def text_length(self, conditioning: Mapping[str, Tensor]) -> Tensor:
        """Ones of the mask, whose padding is at its end."""
        return conditioning[_MASK].sum(dim=1)

    def conditioning_spec(
        self, config: Config, geometry: Geometry
    ) -> tuple[ConditioningInput, ...]:
        """Text and its mask."""
        count = geometry.text.count
        return (
            ConditioningInput(_TEXT, ("B", count, config["text_embed_dim"])),
            ConditioningInput(_MASK, ("B", count), torch.int32, Role.MASK),
        )

    @contextmanager
    def adapted(self, model: torch.nn.Module, geometry: Geometry) -> Iterator[None]:
        """Positions as constants, and an attention without a loop over samples.

        The rotary tables, of every token and head, stay computed: they outweigh the frequencies.
        """
        blocks: Any = model.transformer_blocks
        grid, device = geometry.grid, constants_device(model)
        size = (grid.frames, grid.height, grid.width)
        with ExitStack() as stack:
            stack.enter_context(
                constant_call(model.rope, "_get_positions", *size, device, torch.float32)
            )
            for block in blocks:
                stack.enter_context(replaced(block.attn1, "processor", _BatchedProcessor()))
            yield

    def forward(
        self,
        model: torch.nn.Module,
        geometry: Geometry,  # noqa: ARG002
        latents: Tensor,
        timestep: Tensor,
        inputs: Mapping[str, Tensor],
    ) -> tuple[Tensor, ...]:
        """Velocity [B, C, F, H, W]; the model's own time runs from noise to data."""
        (sample,) = model(
            hidden_states=latents,
            encoder_hidden_states=inputs[_TEXT],
            encoder_attention_mask=inputs[_MASK],
            timestep=TIMESTEPS - timestep,
            return_dict=False,
        )
        return (-sample,)

    def read_call(self, config: Config, call: Mapping[str, Any]) -> ModelCall:
        """The model's own time runs from noise to data."""
        arguments = CallArguments(call)
        states = arguments.tensor("hidden_states", ndim=5)
        inputs = arguments.given(_TEXT)
        inputs[_MASK] = arguments.mask(_MASK, _TEXT)
        frames, height, width = states.shape[2:]
        return finished_call(
            self,
            config,
            arguments,
            size=(frames, height, width),
            latents=states,
            timestep=TIMESTEPS - arguments.timestep(len(states)),
            inputs=inputs,
        )

    def call_output(
        self,
        config: Config,  # noqa: ARG002
        call: Mapping[str, Any],  # noqa: ARG002
        outputs: tuple[Tensor, ...],
    ) -> tuple[Tensor, ...]:
        """The model's velocity is that of its own time."""
        return (-outputs[0],)


class _BatchedProcessor:
    """Computes what MochiAttnProcessor2_0 computes for one sample after the other.

    The stock processor cuts each sample's padding out, so that shapes depend on the mask's values.
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor,
        image_rotary_emb: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Outputs of video [B, N, C] and text [B, L, C], whose mask is [B, L]."""
        video = project_heads(hidden_states, attn.heads, attn.to_q, attn.to_k, attn.to_v)
        text = project_heads(
            encoder_hidden_states, attn.heads, attn.add_q_proj, attn.add_k_proj, attn.add_v_proj
        )
        video = video.normed(attn.norm_q, attn.norm_k).turned(*image_rotary_emb)
        text = text.normed(attn.norm_added_q, attn.norm_added_k)
        video_output, text_output = attend_text_last(video, text, attention_mask.bool())
        if not attn.context_pre_only:
            text_output = attn.to_add_out(text_output)
        return attn.to_out[0](video_output), text_output


def _patch(config: Config) -> tuple[int, int, int]:
    return (1, config["patch_size"], config["patch_size"])
