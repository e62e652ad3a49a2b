"""Released models and the sizes people run them at. A model is one entry of `RELEASES`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import diffusers

from paro_trt.families.base import Config, Geometry, ModelFamily, Shape
from paro_trt.families.registry import FAMILIES, family_for
from paro_trt.models.resolution import latent_size

TEXT = "encoder_hidden_states"


class Pixels(NamedTuple):
    """Size of a video, or of an image and its references, as a user gives it."""

    frames: int
    height: int
    width: int


@dataclass(frozen=True)
class Release:
    """One model, or several of one geometry.

    Args:
        name: as people call it.
        class_name: its diffusers class.
        sizes: what it is usually run at.
        config: what its config.json has other than the class's defaults.
        prompt: shape of the conditioning tensors that text tokens of the sequence come from,
            and of others that are not a text encoder's 512 tokens.
    """

    name: str
    class_name: str
    sizes: tuple[Pixels, ...]
    config: Mapping[str, Any] = field(default_factory=dict)
    prompt: Mapping[str, Shape] = field(default_factory=dict)

    @property
    def family(self) -> ModelFamily:
        """The family that adapts it."""
        return family_for(self.class_name)

    def full_config(self) -> Config:
        """Constructor arguments, defaults filled in, as the family accepts them."""
        parameters = inspect.signature(getattr(diffusers, self.class_name).__init__).parameters
        defaults = {
            name: parameter.default
            for name, parameter in parameters.items()
            if parameter.default is not inspect.Parameter.empty
        }
        config = {**defaults, **self.config}
        self.family.check_config(config)
        return config

    def geometry(self, size: Pixels) -> Geometry:
        """Tokens of one sample."""
        config = self.full_config()
        grid = self.family.grid(config, latent_size(self.family, config, *size))
        return Geometry(grid, self.family.text_layout(config, self.prompt))


def tokens_of_text(count: int, channels: int) -> dict[str, Shape]:
    """A prompt of one text encoder."""
    return {TEXT: (count, channels)}


_SQUARE = (Pixels(1, 1024, 1024),)

RELEASES = (
    Release(
        "Wan 2.1 1.3B",
        "WanTransformer3DModel",
        (Pixels(81, 480, 832),),
        {"num_attention_heads": 12, "num_layers": 30, "ffn_dim": 8960},
    ),
    Release(
        "Wan 2.1 14B, Wan 2.2 A14B (each expert)",
        "WanTransformer3DModel",
        (Pixels(81, 480, 832), Pixels(81, 720, 1280)),
    ),
    Release(
        "Wan 2.2 TI2V 5B",
        "WanTransformer3DModel",
        (Pixels(121, 704, 1280),),
        {"num_attention_heads": 24, "num_layers": 30, "ffn_dim": 14336, "in_channels": 48,
         "out_channels": 48},
    ),
    Release(
        "HunyuanVideo",
        "HunyuanVideoTransformer3DModel",
        (Pixels(61, 544, 960), Pixels(129, 720, 1280)),
        prompt=tokens_of_text(256, 4096),
    ),
    Release(
        "HunyuanVideo-1.5",
        "HunyuanVideo15Transformer3DModel",
        (Pixels(121, 480, 848), Pixels(121, 720, 1280)),
        {"task_type": "t2v"},
        {**tokens_of_text(1000, 3584), "encoder_hidden_states_2": (256, 1472)},
    ),
    Release(
        "CogVideoX 2B",
        "CogVideoXTransformer3DModel",
        (Pixels(49, 480, 720),),
        prompt=tokens_of_text(226, 4096),
    ),
    Release(
        "CogVideoX 5B",
        "CogVideoXTransformer3DModel",
        (Pixels(49, 480, 720),),
        {"num_attention_heads": 48, "num_layers": 42, "use_rotary_positional_embeddings": True},
        tokens_of_text(226, 4096),
    ),
    Release(
        "CogVideoX1.5 5B",
        "CogVideoXTransformer3DModel",
        (Pixels(85, 768, 1360),),  # 81, which the pipeline fills up to whole patches of two latents
        {"num_attention_heads": 48, "num_layers": 42, "use_rotary_positional_embeddings": True,
         "patch_size_t": 2, "patch_bias": False, "sample_width": 300, "sample_height": 300,
         "sample_frames": 81},
        tokens_of_text(226, 4096),
    ),
    Release(
        "LTX-Video 2B",
        "LTXVideoTransformer3DModel",
        (Pixels(161, 512, 704), Pixels(121, 704, 1216)),
    ),
    Release(
        "LTX-Video 13B",
        "LTXVideoTransformer3DModel",
        (Pixels(121, 704, 1216),),
        {"attention_head_dim": 128, "num_layers": 48, "cross_attention_dim": 4096},
    ),
    Release(
        "LTX-2",
        "LTX2VideoTransformer3DModel",
        (Pixels(121, 512, 768), Pixels(121, 1088, 1920)),
    ),
    Release(
        "Mochi 1",
        "MochiTransformer3DModel",
        (Pixels(163, 480, 848),),
        prompt=tokens_of_text(256, 4096),
    ),
    Release(
        "Cosmos-Predict2.5 2B",
        "CosmosTransformer3DModel",
        (Pixels(93, 704, 1280),),
        {"num_attention_heads": 16, "extra_pos_embed_type": None, "in_channels": 17,
         "use_crossattn_projection": True, "crossattn_proj_in_channels": 100352},
    ),
    Release(
        "Flux.1", "FluxTransformer2DModel", _SQUARE, {"guidance_embeds": True},
        tokens_of_text(512, 4096),
    ),
    Release(
        "Flux.2 dev, text alone and with one reference",
        "Flux2Transformer2DModel",
        (Pixels(1, 1024, 1024), Pixels(2, 1024, 1024)),
        prompt=tokens_of_text(512, 15360),
    ),
    Release(
        "Qwen-Image, and Edit with one reference",
        "QwenImageTransformer2DModel",
        (Pixels(1, 1328, 1328), Pixels(2, 1024, 1024)),
        prompt=tokens_of_text(512, 3584),
    ),
    Release(
        "Stable Diffusion 3.5 Large",
        "SD3Transformer2DModel",
        _SQUARE,
        {"num_attention_heads": 38, "num_layers": 38, "caption_projection_dim": 2432,
         "qk_norm": "rms_norm", "pos_embed_max_size": 192},
        tokens_of_text(333, 4096),
    ),
)  # fmt: skip
"""Configurations as their config.json files have them, for what decides sizes and arithmetic."""


def supported_releases() -> tuple[Release, ...]:
    """Those of registered families."""
    known = {name for family in FAMILIES for name in family.class_names}
    return tuple(release for release in RELEASES if release.class_name in known)
