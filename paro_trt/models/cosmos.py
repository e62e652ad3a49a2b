"""Cosmos-Predict2 and 2.5: self-attention over the video grid, text by cross-attention."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import ModelError
from ..plan import Grid
from .adapt import ReplacedFunctions, constant_call, replaced
from .base import (
    AttentionSite,
    ConditioningInput,
    Config,
    Geometry,
    ModelFamily,
    Shape,
    patched_grid,
    require_integer,
    require_variant,
)

_TEXT, _IMAGE, _GIVEN = "encoder_hidden_states", "image_latents", "condition_frames"

_GIVEN_TIME = 1e-4
"""Of frames that are given: both pipelines' default, in the model's unit."""

_PREDICT2_FPS = 16
"""Frames a second of Predict2's video; 2.5 and images do not count them."""


class CosmosFamily(ModelFamily):
    """CosmosTransformer3DModel: Predict2 text to image and video to world, Predict2.5.

    Video models take `condition_frames` [B, F], one for each latent frame that `image_latents`
    gives and zero for those to make; without them they make a video from text alone.
    """

    name = "cosmos"
    class_names = ("CosmosTransformer3DModel",)
    limits: ClassVar[Mapping[str, int]] = {
        "in_channels": 4096,
        "out_channels": 4096,
        "num_attention_heads": 1024,
        "attention_head_dim": 1024,
        "num_layers": 1024,
        "text_embed_dim": 65536,
        "adaln_lora_dim": 65536,
    }

    def check_config(self, config: Config) -> None:
        """Raise ModelError if the config is out of bounds, of Cosmos 1.0 or of Transfer."""
        super().check_config(config)
        if _three(config, "patch_size", 64)[0] != 1:
            raise ModelError(
                "config.json: patch_size",
                expected="1 frame a patch: frames have timesteps of their own",
                actual=repr(config["patch_size"]),
            )
        _three(config, "max_size", 1 << 14)
        channels = config["out_channels"]
        require_variant(config, "in_channels", (channels, channels + 1))
        remedy = "Cosmos 1.0 is not supported; use Cosmos-Predict2 or 2.5"
        require_variant(config, "extra_pos_embed_type", (None,), remedy)
        remedy = "Cosmos-Transfer is not supported; use Cosmos-Predict2 or 2.5"
        for key in ("controlnet_block_every_n", "img_context_dim_in"):
            require_variant(config, key, (None,), remedy)
        if config.get("use_crossattn_projection"):
            require_integer(config, "crossattn_proj_in_channels", 1 << 20)
            require_variant(config, "encoder_hidden_states_channels", (config["text_embed_dim"],))

    def sites(self, config: Config) -> tuple[AttentionSite, ...]:
        """`transformer_blocks.i.attn1` of every block; `attn2` attends the text."""
        heads, head_dim = config["num_attention_heads"], config["attention_head_dim"]
        return tuple(
            AttentionSite(f"transformer_blocks.{index}.attn1", heads, heads, head_dim)
            for index in range(config["num_layers"])
        )

    def grid(self, config: Config, latent_size: tuple[int, int, int]) -> Grid:
        """One token a patch, of latents up to the size that the model has positions for."""
        largest = _three(config, "max_size", 1 << 14)
        if not _makes_video(config):
            largest = (1, *largest[1:])
        for axis, size, limit in zip(
            ("frames", "height", "width"), latent_size, largest, strict=True
        ):
            if size > limit:
                raise ModelError(f"latent {axis}", expected=f"at most {limit}", actual=str(size))
        return patched_grid(latent_size, _three(config, "patch_size", 64))

    def latent_shape(self, config: Config, geometry: Geometry) -> Shape:
        """(channels, frames, height, width)."""
        grid, (_, height, width) = geometry.grid, _three(config, "patch_size", 64)
        return (config["out_channels"], grid.frames, grid.height * height, grid.width * width)

    def conditioning_spec(
        self, config: Config, geometry: Geometry
    ) -> tuple[ConditioningInput, ...]:
        """Text; for video the frames that are given, none by default."""
        key = "crossattn_proj_in_channels" if _projects_text(config) else "text_embed_dim"
        text = ConditioningInput(_TEXT, ("B", "L", config[key]))
        if not _makes_video(config):
            return (text,)
        image: tuple[int | str, ...] = ("B", *self.latent_shape(config, geometry))
        return (
            text,
            ConditioningInput(_IMAGE, image, default=0.0),
            ConditioningInput(_GIVEN, ("B", geometry.grid.frames), torch.float32, default=0.0),
        )

    @contextmanager
    def adapted(self, model: torch.nn.Module, geometry: Geometry) -> Iterator[None]:
        """Rotary embeddings as constants; keys and values not repeated.

        The processor repeats each channel of key and value head_dim / head_dim times.
        """
        config: Any = model.config
        device = next(model.parameters()).device
        latents = torch.empty(1, *self.latent_shape(config, geometry), device=device)
        with (
            constant_call(model.rope, "forward", latents, _frames_a_second(config)),
            ReplacedFunctions({Tensor.repeat_interleave: repeated_by_number}),
        ):
            yield

    def forward(
        self,
        model: torch.nn.Module,
        geometry: Geometry,  # noqa: ARG002
        latents: Tensor,
        timestep: Tensor,
        inputs: Mapping[str, Tensor],
    ) -> tuple[Tensor, ...]:
        """Velocity [B, C, F, H, W], without meaning in frames that are given; the model's own unit
        of time is 1."""
        config: Any = model.config
        time, mask = timestep / 1000, None
        if _GIVEN in inputs:
            given = inputs[_GIVEN][:, None, :, None, None]
            time = given * _GIVEN_TIME + (1 - given) * time[:, None, None, None, None]
            mask = given.to(latents.dtype).expand_as(latents[:, :1])
            latents = mask * inputs[_IMAGE] + (1 - mask) * latents
        with _resizing_the_padding_mask():
            outputs: tuple[Tensor, ...] = model(
                hidden_states=latents,
                timestep=time,
                encoder_hidden_states=inputs[_TEXT],
                fps=_frames_a_second(config),
                condition_mask=mask,
                padding_mask=latents.new_zeros(1, 1, *latents.shape[-2:]),
                return_dict=False,
            )
        return outputs


@contextmanager
def _resizing_the_padding_mask() -> Iterator[None]:
    """diffusers resizes the padding mask by torchvision, which may not be there. Ours has the size
    of the latents, so that nothing is left to do."""
    from diffusers.models.transformers import transformer_cosmos

    stand_in = SimpleNamespace(
        functional=SimpleNamespace(resize=_itself), InterpolationMode=SimpleNamespace(NEAREST=None)
    )
    with replaced(transformer_cosmos, "transforms", stand_in):
        yield


def repeated_by_number(tensor: Tensor, repeats: int | Tensor, dim: int | None = None) -> Tensor:
    """Tensor.repeat_interleave; in an export not by a tensor, whose values a trace has not.

    There the model makes a tensor of the number that it repeats by otherwise, which is one.
    """
    if torch.compiler.is_exporting() and isinstance(repeats, Tensor):
        return tensor
    return tensor.repeat_interleave(repeats, dim)


def _itself(tensor: Tensor, *_: object, **__: object) -> Tensor:
    return tensor


def _makes_video(config: Config) -> bool:
    """Video models take one channel more, which says what is given."""
    return bool(config["in_channels"] > config["out_channels"])


def _projects_text(config: Config) -> bool:
    """Of 2.5 alone."""
    return bool(config.get("use_crossattn_projection"))


def _frames_a_second(config: Any) -> int | None:
    return _PREDICT2_FPS if _makes_video(config) and not _projects_text(config) else None


def _three(config: Config, key: str, largest: int) -> tuple[int, int, int]:
    value = config.get(key)
    sizes = value if isinstance(value, (list, tuple)) else ()
    if len(sizes) != 3 or not all(type(size) is int and 1 <= size <= largest for size in sizes):
        raise ModelError(
            f"config.json: {key}",
            expected=f"three integers in 1..{largest}: frames, height, width",
            actual=repr(value)[:80],
        )
    frames, height, width = sizes
    return frames, height, width
