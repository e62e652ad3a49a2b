"""LTX-2: video and sound in one model; the video's self-attention is a site, the rest is dense."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import ArgumentError
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
from .shared.adapt import ReplacedFunctions, constants_device, on_device_of, replaced, tie_batches
from .shared.call_arguments import CallArguments, finished_call

_TEXT, _AUDIO_TEXT = "encoder_hidden_states", "audio_encoder_hidden_states"
_MASK = "encoder_attention_mask"

_FRAMES_PER_SECOND = 24.0
"""What the pipeline takes unless told otherwise; the sound's length follows from it."""

_UNPACKED = (1, 1, 1)
"""Latent pixels of a token: the VAE alone does all the compressing."""


class Ltx2Family(ModelFamily):
    """LTX2VideoTransformer3DModel, text to video with sound at 24 frames a second.

    Latents are the video's tokens, then the sound's: both are denoised together, on one schedule.
    """

    name = "ltx2"
    class_names = ("LTX2VideoTransformer3DModel",)
    shift_grows_with_tokens = True
    unserved_pipelines: ClassVar[Mapping[str, str]] = {
        "LTX2ImageToVideoPipeline": "gives the tokens of the image a timestep of their own",
        "LTX2ConditionPipeline": "gives the tokens of conditions timesteps of their own",
    }
    vae_factors = (8, 32, 32)
    limits: ClassVar[Mapping[str, int]] = {
        "num_layers": 1024,
        "num_attention_heads": 1024,
        "attention_head_dim": 1024,
        "in_channels": 4096,
        "cross_attention_dim": 1 << 20,
        "caption_channels": 65536,
        "audio_num_attention_heads": 1024,
        "audio_attention_head_dim": 1024,
        "audio_in_channels": 4096,
        "audio_cross_attention_dim": 1 << 20,
        "audio_scale_factor": 1 << 10,
        "audio_hop_length": 1 << 20,
        "audio_sampling_rate": 1 << 20,
    }

    def check_config(self, config: Config) -> None:
        """Raise ModelError if the config is out of bounds or packs latents in another way."""
        super().check_config(config)
        for name in ("patch_size", "patch_size_t", "audio_patch_size", "audio_patch_size_t"):
            require_variant(config, name, (1,))
        require_variant(config, "vae_scale_factors", (self.vae_factors, list(self.vae_factors)))
        channels = config["in_channels"]
        require_variant(config, "audio_in_channels", (channels,))
        for name in ("out_channels", "audio_out_channels"):
            require_variant(config, name, (None, channels))

    def frame_rate(self, config: Config) -> float | None:  # noqa: ARG002
        """Of the positions, which are in seconds."""
        return _FRAMES_PER_SECOND

    def sites(self, config: Config) -> tuple[AttentionSite, ...]:
        """`transformer_blocks.i.attn1` of every block."""
        heads, head_dim = config["num_attention_heads"], config["attention_head_dim"]
        return tuple(
            AttentionSite(f"transformer_blocks.{index}.attn1", heads, heads, head_dim)
            for index in range(config["num_layers"])
        )

    def grid(self, config: Config, latent_size: tuple[int, int, int]) -> Grid:  # noqa: ARG002
        """One token a latent pixel of the video."""
        return patched_grid(latent_size, _UNPACKED)

    def latent_shape(self, config: Config, geometry: Geometry) -> Shape:
        """(tokens of the video and of its sound, channels)."""
        tokens = geometry.grid.tokens + audio_tokens(config, geometry.grid.frames)
        return (tokens, config["in_channels"])

    def conditioning_spec(
        self,
        config: Config,
        geometry: Geometry,  # noqa: ARG002
    ) -> tuple[ConditioningInput, ...]:
        """What the connectors make of the text for video and for sound; LTX-2's fill the mask."""
        video_width = audio_width = config["caption_channels"]
        if not config.get("use_prompt_embeddings", True):
            video_width = config["cross_attention_dim"]
            audio_width = config["audio_cross_attention_dim"]
        return (
            ConditioningInput(_TEXT, ("B", "L", video_width)),
            ConditioningInput(_AUDIO_TEXT, ("B", "L", audio_width)),
            ConditioningInput(_MASK, ("B", "L"), torch.int32, Role.MASK, default=1.0),
        )

    @contextmanager
    def adapted(self, model: torch.nn.Module, geometry: Geometry) -> Iterator[None]:
        """Rotary embeddings, partly of float64, as constants, and applied without writing into
        slices; a squeeze that squeezes nothing."""
        from diffusers.models.transformers import transformer_ltx2

        anywhere: Any = model
        grid, device = geometry.grid, constants_device(model)
        sound = audio_tokens(anywhere.config, grid.frames)
        video_positions = anywhere.rope.prepare_video_coords(
            1, grid.frames, grid.height, grid.width, device, fps=_FRAMES_PER_SECOND
        )
        audio_positions = anywhere.audio_rope.prepare_audio_coords(1, sound, device)
        embedded = (
            (anywhere.rope, video_positions),
            (anywhere.audio_rope, audio_positions),
            (anywhere.cross_attn_rope, video_positions[:, :1]),
            (anywhere.cross_attn_audio_rope, audio_positions[:, :1]),
        )
        with ExitStack() as stack:
            for rope, positions in embedded:
                stack.enter_context(_constant_rotary(rope, positions))
            stack.enter_context(replaced(transformer_ltx2, "apply_split_rotary_emb", turned_halves))
            stack.enter_context(ReplacedFunctions({Tensor.squeeze: _squeezed}))
            yield

    def forward(
        self,
        model: torch.nn.Module,
        geometry: Geometry,
        latents: Tensor,
        timestep: Tensor,
        inputs: Mapping[str, Tensor],
    ) -> tuple[Tensor, ...]:
        """Velocity [B, tokens of video and sound, C]."""
        tie_batches(latents, timestep, *inputs.values())
        config: Any = model.config
        grid = geometry.grid
        # Only LTX-2.3 has a use for it, and older releases of diffusers do not know it.
        sigma = {"sigma": timestep} if "cross_attn_mod" in config else {}
        video, sound = model(
            hidden_states=latents[:, : grid.tokens],
            audio_hidden_states=latents[:, grid.tokens :],
            encoder_hidden_states=inputs[_TEXT],
            audio_encoder_hidden_states=inputs[_AUDIO_TEXT],
            timestep=timestep,
            encoder_attention_mask=inputs[_MASK],
            audio_encoder_attention_mask=inputs[_MASK],
            num_frames=grid.frames,
            height=grid.height,
            width=grid.width,
            fps=_FRAMES_PER_SECOND,
            audio_num_frames=audio_tokens(config, grid.frames),
            return_dict=False,
            **sigma,
        )
        return (torch.cat([video, sound], dim=1),)

    def read_call(self, config: Config, call: Mapping[str, Any]) -> ModelCall:
        """Video and sound in one; both are at one timestep, on one mask of text."""
        arguments = CallArguments(call)
        states, sound = (
            arguments.tensor(name, ndim=3) for name in ("hidden_states", "audio_hidden_states")
        )
        size = arguments.integers("num_frames", "height", "width")
        inputs = arguments.given(_TEXT, _AUDIO_TEXT)
        inputs[_MASK] = arguments.mask(_MASK, _TEXT)
        sound_mask = arguments.mask(f"audio_{_MASK}", _AUDIO_TEXT)
        if not torch.equal(sound_mask, inputs[_MASK]):
            raise ArgumentError(
                f"audio_{_MASK}", expected=f"the same as {_MASK}", actual="another mask"
            )
        timestep = arguments.timestep(len(states))
        for name in ("audio_timestep", "sigma", "audio_sigma"):
            arguments.require_equal_timestep(name, timestep)
        remedy = f"leave frame_rate at {_FRAMES_PER_SECOND:g}: positions are constants of a file"
        rate = _FRAMES_PER_SECOND
        arguments.require("fps", rate, default=rate, remedy=remedy)
        sound_tokens = audio_tokens(config, size[0])
        arguments.require("audio_num_frames", sound_tokens, remedy=remedy)
        # Whose sigma modulates the other's attention: with one timestep they are the same.
        arguments.optional("use_cross_timestep")
        for name, positions in _positions(config, Grid(*size)).items():
            if arguments.optional(name) is not None:
                arguments.require_positions(name, positions)
        return finished_call(
            self,
            config,
            arguments,
            size=size,
            latents=torch.cat([states, sound], dim=1),
            timestep=timestep,
            inputs=inputs,
        )

    def call_output(
        self,
        config: Config,  # noqa: ARG002
        call: Mapping[str, Any],
        outputs: tuple[Tensor, ...],
    ) -> tuple[Tensor, ...]:
        """Velocities of video and sound apart."""
        tokens = call["hidden_states"].shape[1]
        return outputs[0][:, :tokens], outputs[0][:, tokens:]


def audio_tokens(config: Config, latent_frames: int) -> int:
    """Latents of the sound of a video, as LTX2Pipeline counts them."""
    per_second = (
        config["audio_sampling_rate"] / config["audio_hop_length"] / config["audio_scale_factor"]
    )
    frames = (latent_frames - 1) * Ltx2Family.vae_factors[0] + 1
    count: int = round(frames / _FRAMES_PER_SECOND * per_second)
    return count


def _positions(config: Config, grid: Grid) -> dict[str, Tensor]:
    """Where each token starts and ends: pixels and seconds [axes, tokens, 2], as in diffusers.

    The first latent of video and sound stands for one frame alone, so that all are shifted back.
    """

    def seconds(count: int, factor: int, unit: float) -> Tensor:
        bounds = torch.stack([torch.arange(count), torch.arange(count) + 1], dim=-1) * factor
        shifted: Tensor = bounds + (config["causal_offset"] - factor)
        return shifted.clamp(min=0) * unit

    frames = seconds(grid.frames, Ltx2Family.vae_factors[0], 1 / _FRAMES_PER_SECOND)
    rows, columns = (
        torch.stack([torch.arange(count), torch.arange(count) + 1], dim=-1) * factor
        for count, factor in zip((grid.height, grid.width), Ltx2Family.vae_factors[1:], strict=True)
    )
    size = (grid.frames, grid.height, grid.width)
    axes = (frames[:, None, None], rows[None, :, None], columns[None, None])
    video = torch.stack([axis.float().expand(*size, 2).flatten(0, 2) for axis in axes])
    second = config["audio_hop_length"] / config["audio_sampling_rate"]
    sound = seconds(audio_tokens(config, grid.frames), config["audio_scale_factor"], second)
    return {"video_coords": video, "audio_coords": sound.float()[None]}


@contextmanager
def _constant_rotary(rope: Any, positions: Tensor) -> Iterator[None]:
    """Tables of one sample for the whole batch; those of heads as [1, tokens, H, D / 2]."""
    with torch.no_grad():
        tables = rope(positions)
    if rope.rope_type == "split":
        tables = tuple(table.transpose(1, 2).contiguous() for table in tables)

    def rotary(coords: Tensor, device: object = None) -> Any:  # noqa: ARG001
        return on_device_of(tables, coords)

    with replaced(rope, "forward", rotary):
        yield


def turned_halves(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """[B, tokens, H * D] with channel i and i + D / 2 of each head turned by their angle.

    Args:
        x: [B, tokens, H * D].
        rotary: cos and sin f32 [1, tokens, H, D / 2].
    """
    cos, sin = rotary
    first, second = x.float().unflatten(-1, (cos.shape[2], 2, -1)).unbind(-2)
    # addcmul as in the stock model, for the same rounding.
    halves = [torch.addcmul(first * cos, -sin, second), torch.addcmul(second * cos, sin, first)]
    return torch.stack(halves, dim=-2).flatten(-3).to(x.dtype)


def _squeezed(tensor: Tensor, *dims: int) -> Tensor:
    """torch leaves an axis that is longer than 1 alone; ONNX's Squeeze refuses it."""
    if len(dims) == 1 and tensor.shape[dims[0]] != 1:
        return tensor
    return tensor.squeeze(*dims)
