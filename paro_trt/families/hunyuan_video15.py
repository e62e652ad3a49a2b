"""HunyuanVideo-1.5: joint attention with image, glyph and prompt tokens, text last and padded."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import ArgumentError, ModelError
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
    require_integer,
    require_variant,
)
from .hunyuan_video15_forward import without_branches_on_data
from .shared.adapt import tie_batches
from .shared.call_arguments import CallArguments, finished_call

_TEXT, _MASK = "encoder_hidden_states", "encoder_attention_mask"
_GLYPHS, _GLYPH_MASK = "encoder_hidden_states_2", "encoder_attention_mask_2"
_IMAGE_TOKENS, _IMAGE_LATENTS = "image_embeds", "image_latents"

_GLYPH_COUNT, _IMAGE_COUNT = 256, 729
"""What the pipelines pad ByT5's text to, and SigLIP's tokens of an image."""

_LARGEST_TEXT = 1000


class HunyuanVideo15Family(ModelFamily):
    """HunyuanVideo15Transformer3DModel, text to video and image to video.

    A plan's text is image tokens (image to video alone), glyph tokens and prompt tokens; those
    that exist come first. A model for image to video is always given an image.
    """

    name = "hunyuan_video15"
    class_names = ("HunyuanVideo15Transformer3DModel",)
    pipeline_names: ClassVar[Mapping[str, str]] = {
        "prompt_embeds_mask": _MASK,
        "prompt_embeds_mask_2": _GLYPH_MASK,
    }
    vae_factors = (4, 16, 16)
    limits: ClassVar[Mapping[str, int]] = {
        "num_layers": 1024,
        "num_refiner_layers": 1024,
        "num_attention_heads": 1024,
        "attention_head_dim": 1024,
        "in_channels": 4096,
        "text_embed_dim": 65536,
        "text_embed_2_dim": 65536,
        "image_embed_dim": 65536,
        "patch_size": 64,
        "patch_size_t": 64,
    }

    def check_config(self, config: Config) -> None:
        """Raise ModelError if the config is out of bounds or of an unsupported variant."""
        super().check_config(config)
        require_integer(config, "out_channels", config["in_channels"])
        require_variant(config, "task_type", ("t2v", "i2v"))
        require_variant(config, "qk_norm", ("rms_norm",))
        remedy = "step-distilled checkpoints are not supported; use one without use_meanflow"
        require_variant(config, "use_meanflow", (None, False), remedy)

    def sites(self, config: Config) -> tuple[AttentionSite, ...]:
        """`transformer_blocks.i.attn` of every block; the text's refiner stays dense."""
        heads, head_dim = config["num_attention_heads"], config["attention_head_dim"]
        return tuple(
            AttentionSite(f"transformer_blocks.{index}.attn", heads, heads, head_dim)
            for index in range(config["num_layers"])
        )

    def grid(self, config: Config, latent_size: tuple[int, int, int]) -> Grid:
        """One token a patch."""
        return patched_grid(latent_size, _patch(config))

    def latent_shape(self, config: Config, geometry: Geometry) -> Shape:
        """(channels, frames, height, width), without the channels of an image."""
        grid, (frames, height, width) = geometry.grid, _patch(config)
        size = (grid.frames * frames, grid.height * height, grid.width * width)
        return (config["out_channels"], *size)

    def text_layout(self, config: Config, prompt: Mapping[str, Shape]) -> TextLayout:
        """Everything that is not video, at the end, padded."""
        count = joint_text_count(prompt, _TEXT, _LARGEST_TEXT)
        for name, tokens in _fixed_tokens(config).items():
            if joint_text_count(prompt, name, tokens) != tokens:
                raise ModelError(
                    f"tokens of {name}",
                    expected=str(tokens),
                    actual=str(prompt[name][0]),
                    remedy="pad as the pipeline does; the mask tells which tokens exist",
                )
            count += tokens
        return TextLayout(count, TextPosition.LAST, padded=True)

    def text_length(self, conditioning: Mapping[str, Tensor]) -> Tensor:
        """Ones of both masks, whose padding is at their ends, and every image token."""
        text = conditioning[_MASK].sum(dim=1) + conditioning[_GLYPH_MASK].sum(dim=1)
        return text + (_IMAGE_COUNT if _IMAGE_TOKENS in conditioning else 0)

    def conditioning_spec(
        self, config: Config, geometry: Geometry
    ) -> tuple[ConditioningInput, ...]:
        """Prompt and glyph text with their masks; image tokens and latents for image to video."""
        count = geometry.text.count - sum(_fixed_tokens(config).values())
        spec = [
            ConditioningInput(_TEXT, ("B", count, config["text_embed_dim"])),
            ConditioningInput(_MASK, ("B", count), torch.int32, Role.MASK),
            ConditioningInput(_GLYPHS, ("B", _GLYPH_COUNT, config["text_embed_2_dim"])),
            ConditioningInput(_GLYPH_MASK, ("B", _GLYPH_COUNT), torch.int32, Role.MASK),
        ]
        if _has_image(config):
            channels, *size = self.latent_shape(config, geometry)
            appended = config["in_channels"] - channels
            spec += [
                ConditioningInput(_IMAGE_TOKENS, ("B", _IMAGE_COUNT, config["image_embed_dim"])),
                ConditioningInput(_IMAGE_LATENTS, ("B", appended, *size)),
            ]
        return tuple(spec)

    def adapted(self, model: torch.nn.Module, geometry: Geometry) -> AbstractContextManager[object]:
        """Without branches and loops on data, N x N masks and rotary embeddings to compute."""
        config: Any = model.config
        return without_branches_on_data(
            model, self.latent_shape(config, geometry)[1:], image_exists=_has_image(config)
        )

    def forward(
        self,
        model: torch.nn.Module,
        geometry: Geometry,  # noqa: ARG002
        latents: Tensor,
        timestep: Tensor,
        inputs: Mapping[str, Tensor],
    ) -> tuple[Tensor, ...]:
        """Velocity [B, C, F, H, W]."""
        config: Any = model.config
        tie_batches(latents, timestep, *inputs.values())
        batch, channels, *size = latents.shape
        image_latents = inputs.get(_IMAGE_LATENTS)
        if image_latents is None:
            image_latents = latents.new_zeros(batch, config["in_channels"] - channels, *size)
        image_tokens = inputs.get(_IMAGE_TOKENS)
        if image_tokens is None:
            # Zeros are how the model is told that there is no image; one token of them suffices.
            image_tokens = latents.new_zeros(batch, 1, config["image_embed_dim"])
        outputs: tuple[Tensor, ...] = model(
            hidden_states=torch.cat([latents, image_latents], dim=1),
            # The model's time embedding computes in the timestep's type.
            timestep=timestep.to(latents.dtype),
            encoder_hidden_states=inputs[_TEXT],
            encoder_attention_mask=inputs[_MASK],
            encoder_hidden_states_2=inputs[_GLYPHS],
            encoder_attention_mask_2=inputs[_GLYPH_MASK],
            image_embeds=image_tokens,
            return_dict=False,
        )
        return outputs

    def read_call(self, config: Config, call: Mapping[str, Any]) -> ModelCall:
        """Image latents and tokens where the model takes an image; zeros where it takes none."""
        arguments = CallArguments(call)
        states, channels = arguments.tensor("hidden_states", ndim=5), config["out_channels"]
        inputs = arguments.given(_TEXT, _GLYPHS, _IMAGE_TOKENS)
        for mask, text in ((_MASK, _TEXT), (_GLYPH_MASK, _GLYPHS)):
            inputs[mask] = arguments.mask(mask, text)
        image = {_IMAGE_LATENTS: states[:, channels:], _IMAGE_TOKENS: inputs.get(_IMAGE_TOKENS)}
        exists = any(part is not None and bool(part.any()) for part in image.values())
        if exists is not _has_image(config):
            raise ArgumentError(
                _IMAGE_TOKENS,
                expected="an image" if _has_image(config) else "no image, which is zeros",
                actual="an image" if exists else "none",
                remedy="text to video and image to video have a checkpoint each",
            )
        if exists:
            inputs[_IMAGE_LATENTS] = states[:, channels:]
        else:
            inputs.pop(_IMAGE_TOKENS, None)
        frames, height, width = states.shape[2:]
        return finished_call(
            self,
            config,
            arguments,
            size=(frames, height, width),
            latents=states[:, :channels],
            timestep=arguments.timestep(len(states)),
            inputs=inputs,
        )


def _has_image(config: Config) -> bool:
    return bool(config["task_type"] == "i2v")


def _fixed_tokens(config: Config) -> dict[str, int]:
    """Tokens in addition to the prompt's, by the conditioning input that brings them."""
    return {_GLYPHS: _GLYPH_COUNT} | ({_IMAGE_TOKENS: _IMAGE_COUNT} if _has_image(config) else {})


def _patch(config: Config) -> tuple[int, int, int]:
    return (config["patch_size_t"], config["patch_size"], config["patch_size"])
