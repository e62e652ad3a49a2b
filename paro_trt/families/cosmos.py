"""Cosmos 1.0, Predict2 and 2.5: self-attention over the video, text by cross-attention."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import ArgumentError, ModelError
from ..plan import Grid
from .base import (
    TIMESTEPS,
    AttentionSite,
    ConditioningInput,
    Config,
    Geometry,
    ModelCall,
    ModelFamily,
    Shape,
    patched_grid,
    require_integer,
    require_variant,
)
from .shared.adapt import ReplacedFunctions, constant_call, constants_device, replaced
from .shared.call_arguments import CallArguments, finished_call
from .shared.edm_preconditioning import NoiseLevel, noise_level, noise_level_at

_TEXT, _IMAGE, _GIVEN = "encoder_hidden_states", "image_latents", "condition_frames"

_GIVEN_TIME = 1e-4
"""Of frames that are given: both pipelines' default, in the model's unit."""

_FIRST_FPS, _PREDICT2_FPS = 30, 16
"""Frames a second of video of 1.0 and of Predict2; 2.5 and images do not count them."""


class CosmosFamily(ModelFamily):
    """CosmosTransformer3DModel: 1.0 text to world, Predict2 text to image and video to world, 2.5.

    Predict2's and 2.5's video models take `condition_frames` [B, F], one for each latent frame
    that `image_latents` gives and zero for those to make; without them all are made.
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
        """Raise ModelError if the config is out of bounds, of a variant that is not served."""
        super().check_config(config)
        if _three(config, "patch_size", 64)[0] != 1:
            raise ModelError(
                "config.json: patch_size",
                expected="1 frame a patch: frames have timesteps of their own",
                actual=repr(config["patch_size"]),
            )
        _three(config, "max_size", 1 << 14)
        require_variant(config, "extra_pos_embed_type", (None, "learnable"))
        channels, remedy = config["out_channels"], ""
        in_channels: tuple[int, ...] = (channels, channels + 1)
        if _is_first(config):
            remedy = "video to world of Cosmos 1.0 is not supported; use Cosmos-Predict2 or 2.5"
            in_channels = (channels,)
        require_variant(config, "in_channels", in_channels, remedy)
        remedy = "Cosmos-Transfer is not supported; use Cosmos-Predict2 or 2.5"
        for key in ("controlnet_block_every_n", "img_context_dim_in"):
            require_variant(config, key, (None,), remedy)
        if config.get("use_crossattn_projection"):
            require_integer(config, "crossattn_proj_in_channels", 1 << 20)
            require_variant(config, "encoder_hidden_states_channels", (config["text_embed_dim"],))

    def pixels_per_latent(self, config: Config) -> tuple[int, int, int]:
        """1.0 has a VAE of its own; the others have Wan's."""
        return (8, 8, 8) if _is_first(config) else (4, 8, 8)

    def frame_rate(self, config: Config) -> float | None:
        """Of the positions, which are in seconds where there are frames."""
        return _frames_a_second(config)

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
                raise ModelError(
                    f"latent {axis}",
                    expected=f"at most {limit}",
                    actual=str(size),
                    remedy="choose another resolution or number of frames",
                )
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
        if not _takes_frames(config):
            return (text,)
        image: tuple[int | str, ...] = ("B", *self.latent_shape(config, geometry))
        return (
            text,
            ConditioningInput(_IMAGE, image, default=0.0),
            ConditioningInput(_GIVEN, ("B", geometry.grid.frames), torch.float32, default=0.0),
        )

    @contextmanager
    def adapted(self, model: torch.nn.Module, geometry: Geometry) -> Iterator[None]:
        """Rotary embeddings as constants; learned positions for one sample, not each; keys and
        values not repeated."""
        config: Any = model.config
        device = constants_device(model)
        latents = torch.empty(1, *self.latent_shape(config, geometry), device=device)
        with ExitStack() as stack:
            stack.enter_context(
                constant_call(model.rope, "forward", latents, _frames_a_second(config))
            )
            stack.enter_context(ReplacedFunctions({Tensor.repeat_interleave: repeated_by_number}))
            if _is_first(config):
                positions: Any = model.learnable_pos_embed
                of_batch = positions.forward
                stack.enter_context(
                    replaced(positions, "forward", lambda states: of_batch(states[:1]))
                )
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
        if _is_first(config):
            noise = noise_level(time)
            scaled = latents * noise.input_scale.to(latents.dtype)
            (sample,) = _call(model, scaled, noise.time, inputs[_TEXT])
            return (noise.velocity(latents, sample),)
        if _GIVEN in inputs:
            given = inputs[_GIVEN][:, None, :, None, None]
            time = given * _GIVEN_TIME + (1 - given) * time[:, None, None, None, None]
            mask = given.to(latents.dtype).expand_as(latents[:, :1])
            latents = mask * inputs[_IMAGE] + (1 - mask) * latents
        return _call(model, latents, time, inputs[_TEXT], mask)

    def read_call(self, config: Config, call: Mapping[str, Any]) -> ModelCall:
        """A flow's latents and timestep; frames that are given by the mask and their own time."""
        arguments = CallArguments(call)
        states = arguments.tensor("hidden_states", ndim=5)
        remedy = "make videos at the model's own frame rate: positions are constants of a file"
        arguments.require("fps", _frames_a_second(config), remedy=remedy)
        padding = arguments.optional("padding_mask")
        if padding is not None and bool(padding.any()):
            raise ArgumentError("padding_mask", expected="zeros", actual="padding")
        inputs = arguments.given(_TEXT)
        if _is_first(config):
            noise = self._noise(call)
            latents = (states / noise.input_scale).to(states.dtype)
            arguments.optional("timestep")
            timestep = noise.flow_time * TIMESTEPS
        elif _takes_frames(config):
            mask = arguments.tensor("condition_mask", ndim=5)
            latents, given = states, mask[:, 0, :, 0, 0].float()
            timestep = _noisy_time(arguments.tensor("timestep"), mask, given) * TIMESTEPS
            if bool(given.any()):
                inputs |= {_IMAGE: states, _GIVEN: given}
        else:
            latents, timestep = states, arguments.timestep(len(states), scale=1.0)
        frames, height, width = states.shape[2:]
        return finished_call(
            self,
            config,
            arguments,
            size=(frames, height, width),
            latents=latents,
            timestep=timestep,
            inputs=inputs,
        )

    def call_output(
        self, config: Config, call: Mapping[str, Any], outputs: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """Of 1.0, what its scheduler makes the data of."""
        if not _is_first(config):
            return outputs
        noise, states = self._noise(call), call["hidden_states"].float()
        learned = noise.learned(states / noise.input_scale, outputs[0].float())
        return (learned.to(outputs[0].dtype),)

    @staticmethod
    def _noise(call: Mapping[str, Any]) -> NoiseLevel:
        own = CallArguments(call).timestep(call["hidden_states"].shape[0])
        return noise_level_at(own)


def _noisy_time(time: Tensor, mask: Tensor, given: Tensor) -> Tensor:
    """float32 [B], 0..1: the time of the frames that are not given, of [B] or [B, 1, F, 1, 1].

    Args:
        time: of the call.
        mask: [B, 1, F, h, w], one where latents are given.
        given: [B, F], the same by frames.
    """
    if time.numel() not in (len(given), given.numel()):
        raise ArgumentError(
            "timestep",
            expected=f"one for each sample, [{len(given)}], or for each of its frames",
            actual=str(list(time.shape)),
        )
    frames = time.float().reshape(len(given), -1).expand_as(given)
    noisy = frames.masked_fill(given > 0, 0).amax(dim=1)
    expected = torch.where(given > 0, torch.full_like(frames, _GIVEN_TIME), noisy[:, None])
    whole = bool((mask == given[:, None, :, None, None]).all())
    if not whole or not torch.allclose(frames, expected, rtol=0.02, atol=1e-6):
        raise ArgumentError(
            "condition_mask and timestep",
            expected=f"whole frames that are given, at {_GIVEN_TIME:g}; all others at one time",
            actual="parts of frames, or frames at other times",
            remedy="leave sigma_conditioning and conditional_frame_timestep at their defaults",
        )
    return noisy


def _call(
    model: Any, latents: Tensor, time: Tensor, text: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, ...]:
    with _resizing_the_padding_mask():
        outputs: tuple[Tensor, ...] = model(
            hidden_states=latents,
            timestep=time,
            encoder_hidden_states=text,
            fps=_frames_a_second(model.config),
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

    stub = SimpleNamespace(
        functional=SimpleNamespace(resize=_itself), InterpolationMode=SimpleNamespace(NEAREST=None)
    )
    with replaced(transformer_cosmos, "transforms", stub):
        yield


def repeated_by_number(tensor: Tensor, repeats: int | Tensor, dim: int | None = None) -> Tensor:
    """Tensor.repeat_interleave; in an export not by a tensor, whose values a trace has not.

    The model repeats each channel of key and value head_dim / head_dim times, in an export by a
    tensor of that number.
    """
    if torch.compiler.is_exporting() and isinstance(repeats, Tensor):
        return tensor
    return tensor.repeat_interleave(repeats, dim)


def _itself(tensor: Tensor, *_: object, **__: object) -> Tensor:
    return tensor


def _is_first(config: Config) -> bool:
    """Of 1.0, the only one with learned positions."""
    return config.get("extra_pos_embed_type") == "learnable"


def _takes_frames(config: Config) -> bool:
    """Models that continue a video take one channel more, which says what is given."""
    return bool(config["in_channels"] > config["out_channels"])


def _makes_video(config: Config) -> bool:
    return _takes_frames(config) or _is_first(config)


def _projects_text(config: Config) -> bool:
    """Of 2.5 alone."""
    return bool(config.get("use_crossattn_projection"))


def _frames_a_second(config: Any) -> int | None:
    if _is_first(config):
        return _FIRST_FPS
    return _PREDICT2_FPS if _takes_frames(config) and not _projects_text(config) else None


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
