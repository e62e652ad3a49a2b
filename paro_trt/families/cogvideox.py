"""CogVideoX and CogVideoX 1.5: joint attention, text first, never masked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
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
    Sampling,
    Shape,
    joint_text_count,
    patched_grid,
    require_integer,
    require_variant,
)
from .shared.adapt import constant_call, replaced
from .shared.call_arguments import CallArguments, finished_call
from .shared.joint_attention import attend, project_heads

_TEXT, _IMAGE, _OFS = "encoder_hidden_states", "image_latents", "ofs"
_OFS_DEFAULT = 2.0
"""What CogVideoX 1.5's image-to-video pipeline passes."""


class CogVideoXFamily(ModelFamily):
    """CogVideoXTransformer3DModel, text to video and image to video.

    Image to video takes `image_latents`, the channels that its pipeline appends to the latents.
    """

    name = "cogvideox"
    class_names = ("CogVideoXTransformer3DModel",)
    sampling = Sampling.V_PREDICTION
    limits: ClassVar[Mapping[str, int]] = {
        "num_layers": 1024,
        "num_attention_heads": 1024,
        "attention_head_dim": 1024,
        "in_channels": 4096,
        "out_channels": 4096,
        "time_embed_dim": 65536,
        "text_embed_dim": 65536,
        "patch_size": 64,
        "max_text_seq_length": 1 << 16,
        "sample_width": 1 << 14,
        "sample_height": 1 << 14,
        "sample_frames": 1 << 14,
    }

    def check_config(self, config: Config) -> None:
        """Raise ModelError if the config is out of bounds."""
        super().check_config(config)
        if config.get("patch_size_t") is not None:
            require_integer(config, "patch_size_t", 64)
        channels = config["out_channels"]
        require_variant(config, "in_channels", (channels, 2 * channels))

    def sites(self, config: Config) -> tuple[AttentionSite, ...]:
        """`transformer_blocks.i.attn1` of every block."""
        heads, head_dim = config["num_attention_heads"], config["attention_head_dim"]
        return tuple(
            AttentionSite(f"transformer_blocks.{index}.attn1", heads, heads, head_dim)
            for index in range(config["num_layers"])
        )

    def grid(self, config: Config, latent_size: tuple[int, int, int]) -> Grid:
        """One token a patch; learned position embeddings have one size only."""
        size = (config["sample_height"], config["sample_width"])
        if config.get("use_learned_positional_embeddings") and latent_size[1:] != size:
            raise ModelError(
                "latent height and width",
                expected=f"{size[0]} and {size[1]}, the size the model was trained at",
                actual=f"{latent_size[1]} and {latent_size[2]}",
                remedy="learned position embeddings serve no other resolution",
            )
        return patched_grid(latent_size, _patch(config))

    def latent_shape(self, config: Config, geometry: Geometry) -> Shape:
        """(frames, channels, height, width): frames lead in this family."""
        grid, (frames, height, width) = geometry.grid, _patch(config)
        return (
            grid.frames * frames,
            config["out_channels"],
            grid.height * height,
            grid.width * width,
        )

    def text_layout(self, config: Config, prompt: Mapping[str, Shape]) -> TextLayout:
        """All of the prompt's tokens, in front; padding is attended like text."""
        largest = config["max_text_seq_length"]
        count = joint_text_count(prompt, _TEXT, largest)
        if not config.get("use_rotary_positional_embeddings") and count != largest:
            raise ModelError(
                f"text tokens of {_TEXT}",
                expected=f"{largest}: the position embeddings count on them",
                actual=str(count),
                remedy="pad prompts to max_sequence_length, as the pipeline does",
            )
        return TextLayout(count, TextPosition.FIRST)

    def conditioning_spec(
        self, config: Config, geometry: Geometry
    ) -> tuple[ConditioningInput, ...]:
        """Text; for image to video the image's latents and, in 1.5, the offset."""
        spec = [ConditioningInput(_TEXT, ("B", geometry.text.count, config["text_embed_dim"]))]
        if config["in_channels"] != config["out_channels"]:
            spec.append(ConditioningInput(_IMAGE, ("B", *self.latent_shape(config, geometry))))
        return tuple(spec)

    def constants(self, config: Config, geometry: Geometry) -> dict[str, Tensor]:
        """cos and sin f32 [F*H*W, head_dim] as the pipeline computes them; the offset of 1.5."""
        constants = {}
        if config.get("use_rotary_positional_embeddings"):
            cos, sin = _rotary_embedding(config, geometry.grid)
            constants = {"rotary_cos": cos, "rotary_sin": sin}
        if config.get("ofs_embed_dim") is not None:
            constants[_OFS] = torch.tensor([_OFS_DEFAULT])
        return constants

    @contextmanager
    def adapted(self, model: torch.nn.Module, geometry: Geometry) -> Iterator[None]:
        """Rotary embeddings applied without writing into slices; sine position embeddings of sizes
        the model was not made for as a constant."""
        config: Any = model.config
        embed: Any = model.patch_embed
        blocks: Any = model.transformer_blocks
        device = next(model.parameters()).device
        constants = self.constants(config, geometry)
        processor = _StackingProcessor(_joint_rotary(constants, geometry.text.count, device))
        with ExitStack() as stack:
            if hasattr(embed, "pos_embedding"):
                frames, _, height, width = self.latent_shape(config, geometry)
                pixel_frames = (frames - 1) * config["temporal_compression_ratio"] + 1
                size = (height, width, pixel_frames, device)
                stack.enter_context(constant_call(embed, "_get_positional_embeddings", *size))
            for block in blocks:
                stack.enter_context(replaced(block.attn1, "processor", processor))
            yield

    def forward(
        self,
        model: torch.nn.Module,
        geometry: Geometry,  # noqa: ARG002
        latents: Tensor,
        timestep: Tensor,
        inputs: Mapping[str, Tensor],
    ) -> tuple[Tensor, ...]:
        """v-prediction [B, F, C, H, W]."""
        rotary = None
        if "rotary_cos" in inputs:
            rotary = inputs["rotary_cos"], inputs["rotary_sin"]
        if _IMAGE in inputs:
            latents = torch.cat([latents, inputs[_IMAGE]], dim=2)
        outputs: tuple[Tensor, ...] = model(
            hidden_states=latents,
            encoder_hidden_states=inputs[_TEXT],
            timestep=timestep,
            ofs=inputs.get(_OFS),
            image_rotary_emb=rotary,
            return_dict=False,
        )
        return outputs

    def read_call(self, config: Config, call: Mapping[str, Any]) -> ModelCall:
        """Channels of an image apart from the latents; rotary embeddings and offset as they are
        in the family's constants."""
        rotary = call.get("image_rotary_emb") or ()
        tables = dict(zip(("rotary_cos", "rotary_sin"), rotary, strict=False))
        arguments = CallArguments({**call, "image_rotary_emb": None} | tables)
        states, channels = arguments.tensor("hidden_states", ndim=5), config["out_channels"]
        frames, _, height, width = states.shape[1:]
        inputs = arguments.given(_TEXT)
        if config["in_channels"] != channels:
            inputs[_IMAGE] = states[:, :, channels:]
        return finished_call(
            self,
            config,
            arguments,
            size=(frames, height, width),
            latents=states[:, :, :channels],
            timestep=arguments.timestep(len(states)),
            inputs=inputs,
        )


class _StackingProcessor:
    """Computes what CogVideoXAttnProcessor2_0 computes.

    Args:
        rotary: cos and sin f32 [text and video tokens, 1, head_dim / 2]; None without.
    """

    def __init__(self, rotary: tuple[Tensor, Tensor] | None) -> None:
        self._rotary = rotary

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,  # noqa: ARG002
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor]:
        """Outputs of video [B, N, C] and text [B, L, C]."""
        text_tokens, tokens = encoder_hidden_states.shape[1], hidden_states.shape[1]
        joint = torch.cat([encoder_hidden_states, hidden_states], dim=1)
        heads = project_heads(joint, attn.heads, attn.to_q, attn.to_k, attn.to_v)
        if attn.norm_q is not None:
            heads = heads.normed(attn.norm_q, attn.norm_k)
        if self._rotary is not None:
            heads = heads.turned(*self._rotary)
        output = attn.to_out[1](attn.to_out[0](attend(heads)))
        text, video = output.split([text_tokens, tokens], dim=1)
        return video, text


def _joint_rotary(
    constants: Mapping[str, Tensor], text_tokens: int, device: torch.device
) -> tuple[Tensor, Tensor] | None:
    """The tables with rows for the text, which is not turned."""
    if "rotary_cos" not in constants:
        return None
    # The pipeline's tables repeat each angle for the two channels that it turns.
    cos, sin = (constants[name][:, None, ::2] for name in ("rotary_cos", "rotary_sin"))
    still = (text_tokens, *cos.shape[1:])
    cos, sin = torch.cat([torch.ones(still), cos]), torch.cat([torch.zeros(still), sin])
    return cos.to(device), sin.to(device)


def _patch(config: Config) -> tuple[int, int, int]:
    """CogVideoX 1.0 has no patches along time."""
    return (config.get("patch_size_t") or 1, config["patch_size"], config["patch_size"])


def _rotary_embedding(config: Config, grid: Grid) -> tuple[Tensor, Tensor]:
    """As CogVideoXPipeline computes them: 1.0 spreads the trained positions over the grid, 1.5
    counts tokens."""
    from diffusers.models.embeddings import get_3d_rotary_pos_embed

    patch = config["patch_size"]
    trained = (config["sample_height"] // patch, config["sample_width"] // patch)
    size = (grid.height, grid.width)
    if config.get("patch_size_t") is None:
        kind: dict[str, Any] = {"crops_coords": _fitted(size, trained)}
    else:
        kind = {"crops_coords": None, "grid_type": "slice", "max_size": trained}
    cos, sin = get_3d_rotary_pos_embed(
        config["attention_head_dim"], grid_size=size, temporal_size=grid.frames, **kind
    )
    return cos.float(), sin.float()


def _fitted(size: tuple[int, int], frame: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """Top left and bottom right of `size` enlarged or reduced to fit into `frame`, centred."""
    factor = min(frame[0] / size[0], frame[1] / size[1])
    extent = (round(size[0] * factor), round(size[1] * factor))
    start = (round((frame[0] - extent[0]) / 2), round((frame[1] - extent[1]) / 2))
    return start, (start[0] + extent[0], start[1] + extent[1])
