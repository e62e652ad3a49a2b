"""Wan 2.1 and 2.2: self-attention over the video grid, text and images by cross-attention."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import ArgumentError, ModelError
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
    require_integer,
)
from .shared.adapt import replaced
from .shared.call_arguments import CallArguments, finished_call
from .shared.joint_attention import Heads, attend

_TEXT, _CLIP_IMAGE = "encoder_hidden_states", "encoder_hidden_states_image"
_IMAGE, _IMAGE_GIVEN = "image_latents", "image_given"

_CLIP_TOKENS, _TEXT_WITH_CLIP = 257, 512
"""Tokens of an image by CLIP ViT-H/14, and of the text next to it, which the attention expects."""

_TI2V_CHANNELS = 48
"""Latent channels of Wan 2.2's own VAE, which its text-and-image-to-video model alone uses."""


class WanFamily(ModelFamily):
    """WanTransformer3DModel in all its variants, which the config tells apart.

    Text to video; image to video by channels appended to the latents (`image_latents`), with CLIP
    tokens of the image (2.1) or without (2.2); text and image to video (2.2 TI2V 5B), where the
    image's latents replace the first frame of the samples whose `image_given` is 1.
    """

    name = "wan"
    class_names = ("WanTransformer3DModel",)
    pipeline_names: ClassVar[Mapping[str, str]] = {"image_embeds": _CLIP_IMAGE}
    limits: ClassVar[Mapping[str, int]] = {
        "num_layers": 1024,
        "num_attention_heads": 1024,
        "attention_head_dim": 1024,
        "in_channels": 4096,
        "text_dim": 65536,
        "freq_dim": 65536,
        "ffn_dim": 1 << 20,
        "rope_max_seq_len": 1 << 16,
    }

    def check_config(self, config: Config) -> None:
        """Raise ModelError if the config is out of bounds or its parts do not fit together."""
        super().check_config(config)
        _patch_size(config)
        if not isinstance(config.get("eps"), float):
            raise ModelError(
                "config.json: eps", expected="a number", actual=repr(config.get("eps"))
            )
        if config.get("out_channels") is not None:
            require_integer(config, "out_channels", config["in_channels"])
        _check_image_embedding(config)

    def pixels_per_latent(self, config: Config) -> tuple[int, int, int]:
        """Wan 2.2's own VAE halves height and width once more."""
        return (4, 16, 16) if _latent_channels(config) == _TI2V_CHANNELS else (4, 8, 8)

    def sites(self, config: Config) -> tuple[AttentionSite, ...]:
        """`blocks.i.attn1` of every block; `attn2` attends the text."""
        heads, head_dim = config["num_attention_heads"], config["attention_head_dim"]
        return tuple(
            AttentionSite(f"blocks.{index}.attn1", heads, heads, head_dim)
            for index in range(config["num_layers"])
        )

    def grid(self, config: Config, latent_size: tuple[int, int, int]) -> Grid:
        """One token a patch, as many along an axis as the rotary embedding has."""
        return patched_grid(latent_size, _patch_size(config), config["rope_max_seq_len"])

    def latent_shape(self, config: Config, geometry: Geometry) -> Shape:
        """(channels, frames, height, width), without the channels of an image."""
        grid, (frames, height, width) = geometry.grid, _patch_size(config)
        size = (grid.frames * frames, grid.height * height, grid.width * width)
        return (_latent_channels(config), *size)

    def conditioning_spec(
        self, config: Config, geometry: Geometry
    ) -> tuple[ConditioningInput, ...]:
        """The text encoder's output, and what the variant knows of an image."""
        image_tokens = _image_tokens(config)
        text_tokens = _TEXT_WITH_CLIP if image_tokens else "L"
        spec = [ConditioningInput(_TEXT, ("B", text_tokens, config["text_dim"]))]
        if image_tokens:
            spec.append(ConditioningInput(_CLIP_IMAGE, ("B", image_tokens, config["image_dim"])))
        channels, *size = self.latent_shape(config, geometry)
        if config["in_channels"] != channels:
            appended = config["in_channels"] - channels
            spec.append(ConditioningInput(_IMAGE, ("B", appended, *size)))
        elif _takes_first_frame(config):
            frame: tuple[int | str, ...] = ("B", channels, 1, *size[1:])
            spec += [
                ConditioningInput(_IMAGE, frame, default=0.0),
                ConditioningInput(_IMAGE_GIVEN, ("B",), torch.float32, Role.SCALAR, default=0.0),
            ]
        return tuple(spec)

    @contextmanager
    def adapted(self, model: torch.nn.Module, geometry: Geometry) -> Iterator[None]:
        """Rotary embeddings as constants, applied without writing into slices."""
        config: Any = model.config
        blocks: Any = model.blocks
        device = next(model.parameters()).device
        latents = torch.empty(1, *self.latent_shape(config, geometry), device=device)
        with torch.no_grad():
            both = model.rope(latents)  # type: ignore[operator]
        # The model's tables repeat each angle for the two channels that it turns.
        cos, sin = (table[0, ..., ::2].contiguous() for table in both)
        with ExitStack() as stack:
            for block in blocks:
                processor = _StackingProcessor(cos, sin)
                stack.enter_context(replaced(block.attn1, "processor", processor))
            yield

    def forward(
        self,
        model: torch.nn.Module,
        geometry: Geometry,
        latents: Tensor,
        timestep: Tensor,
        inputs: Mapping[str, Tensor],
    ) -> tuple[Tensor, ...]:
        """Velocity [B, C, F, H, W]; without meaning in a first frame that was given."""
        config: Any = model.config
        if _IMAGE_GIVEN in inputs:
            given = inputs[_IMAGE_GIVEN] > 0
            latents = _with_first_frame(latents, inputs[_IMAGE], given)
            timestep = _token_timesteps(timestep, given, geometry.grid)
        elif _IMAGE in inputs:
            latents = torch.cat([latents, inputs[_IMAGE]], dim=1)
        image = inputs.get(_CLIP_IMAGE)
        if image is not None and config["pos_embed_seq_len"] is not None:
            # The model wants first and last image as rows of the batch.
            image = image.unflatten(1, (2, -1)).flatten(0, 1)
        outputs: tuple[Tensor, ...] = model(
            hidden_states=latents,
            timestep=timestep,
            encoder_hidden_states=inputs[_TEXT],
            encoder_hidden_states_image=image,
            return_dict=False,
        )
        return outputs

    def read_call(self, config: Config, call: Mapping[str, Any]) -> ModelCall:
        """Channels of an image apart from the latents, or a first frame that is at timestep 0.

        A timestep for each token, which TI2V's pipeline passes, is one for each sample again.
        """
        arguments = CallArguments(call)
        states = arguments.tensor("hidden_states", ndim=5)
        size, channels = _size(states), _latent_channels(config)
        inputs = arguments.given(_TEXT, _CLIP_IMAGE)
        if _CLIP_IMAGE in inputs and config["pos_embed_seq_len"] is not None:
            # First and last image are rows of the batch.
            inputs[_CLIP_IMAGE] = inputs[_CLIP_IMAGE].unflatten(0, (-1, 2)).flatten(1, 2)
        if config["in_channels"] != channels:
            inputs[_IMAGE] = states[:, channels:]
        own = arguments.optional("timestep")
        if _takes_first_frame(config) and isinstance(own, Tensor) and own.ndim == 2:
            timestep, given = _sample_timesteps(own, self.grid(config, size))
            if bool(given.any()):
                inputs |= {_IMAGE: states[:, :, :1], _IMAGE_GIVEN: given.float()}
        else:
            timestep = arguments.timestep(len(states))
        return finished_call(
            self,
            config,
            arguments,
            size=size,
            latents=states[:, :channels],
            timestep=timestep,
            inputs=inputs,
        )


def _size(states: Tensor) -> tuple[int, int, int]:
    frames, height, width = states.shape[2:]
    return frames, height, width


def _sample_timesteps(tokens: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Timestep float32 [B], and bool [B] whether the first frame is given, of [B, tokens]."""
    tokens = tokens.detach().float()
    frame_tokens = grid.height * grid.width
    if tokens.shape[1] != grid.tokens:
        raise ArgumentError(
            "timestep",
            expected=f"one for each of {grid.tokens} tokens",
            actual=str(tokens.shape[1]),
        )
    first, last = tokens[:, :1], tokens[:, -1:]
    given = (first == 0) & (last != 0)
    noisy = tokens.clone()
    noisy[:, :frame_tokens] = torch.where(given, last, tokens[:, :frame_tokens])
    clean = tokens[:, :frame_tokens] == 0
    if not bool((noisy == last).all()) or not bool((clean | ~given).all()):
        raise ArgumentError(
            "timestep",
            expected="one for each sample, or zero for the whole first frame and one for the rest",
            actual="tokens of one sample at other timesteps",
            remedy="use WanPipeline, or WanImageToVideoPipeline with one image",
        )
    return last[:, 0], given[:, 0]


class _StackingProcessor:
    """Computes what WanAttnProcessor computes in self-attention.

    Args:
        cos: f32 [tokens, 1, head_dim / 2].
        sin: the same.
    """

    def __init__(self, cos: Tensor, sin: Tensor) -> None:
        self._cos, self._sin = cos, sin

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,  # noqa: ARG002
        attention_mask: Tensor | None = None,  # noqa: ARG002
        rotary_emb: tuple[Tensor, Tensor] | None = None,  # noqa: ARG002
    ) -> Tensor:
        """Output [B, N, C] of the video's tokens [B, N, C]."""
        query, key = attn.norm_q(attn.to_q(hidden_states)), attn.norm_k(attn.to_k(hidden_states))
        parts = (query, key, attn.to_v(hidden_states))
        heads = Heads(*(part.unflatten(-1, (attn.heads, -1)) for part in parts))
        output = attend(heads.turned(self._cos, self._sin))
        projected: Tensor = attn.to_out[1](attn.to_out[0](output))
        return projected


def _with_first_frame(latents: Tensor, image: Tensor, given: Tensor) -> Tensor:
    """[B, C, F, H, W] whose first frame is `image` [B, C, 1, H, W] where `given` bool [B]."""
    first = torch.where(given.view(-1, 1, 1, 1, 1), image, latents[:, :, :1])
    return torch.cat([first, latents[:, :, 1:]], dim=2)


def _token_timesteps(timestep: Tensor, given: Tensor, grid: Grid) -> Tensor:
    """[B, tokens]: a first frame that is given is free of noise, at timestep 0."""
    first = torch.where(given, torch.zeros_like(timestep), timestep)
    frame_tokens = grid.height * grid.width
    parts = ((first, frame_tokens), (timestep, grid.tokens - frame_tokens))
    return torch.cat([value[:, None].expand(-1, count) for value, count in parts], dim=1)


def _latent_channels(config: Config) -> int:
    channels: int = config.get("out_channels") or config["in_channels"]
    return channels


def _takes_first_frame(config: Config) -> bool:
    return (
        config["in_channels"] == _latent_channels(config) == _TI2V_CHANNELS
        and _patch_size(config)[0] == 1
    )


def _image_tokens(config: Config) -> int:
    """Of CLIP; 0 in models without. Models of a first and a last image embed the positions."""
    if config.get("image_dim") is None:
        return 0
    return config.get("pos_embed_seq_len") or _CLIP_TOKENS


def _check_image_embedding(config: Config) -> None:
    width = config.get("image_dim")
    if width is None:
        for key in ("added_kv_proj_dim", "pos_embed_seq_len"):
            if config.get(key) is not None:
                raise ModelError(
                    f"config.json: {key}",
                    expected="null where image_dim is null",
                    actual=repr(config[key])[:80],
                )
        return
    require_integer(config, "image_dim", 65536)
    inner = config["num_attention_heads"] * config["attention_head_dim"]
    if config.get("added_kv_proj_dim") != inner:
        raise ModelError(
            "config.json: added_kv_proj_dim",
            expected=f"{inner}, the model's width, where image_dim is given",
            actual=repr(config.get("added_kv_proj_dim"))[:80],
        )
    if config.get("pos_embed_seq_len") is not None:
        positions = require_integer(config, "pos_embed_seq_len", 1 << 14)
        if positions % 2:
            raise ModelError(
                "config.json: pos_embed_seq_len",
                expected="an even number, the tokens of two images",
                actual=str(positions),
            )


def _patch_size(config: Config) -> tuple[int, int, int]:
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
