"""Qwen-Image and Qwen-Image-Edit: joint attention with padded text, packed latents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from ..errors import ArgumentError
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
from .shared.adapt import ReplacedFunctions, constants_device, on_device_of, replaced
from .shared.call_arguments import CallArguments, finished_call
from .shared.diffusers_range import check_diffusers
from .shared.joint_attention import attend_text_last, project_heads
from .shared.packed_images import (
    packed_grid,
    packed_shape,
    reference_inputs,
    references_of,
    require_rotary_axes,
    with_reference_outputs,
    with_references,
)

Rotary: TypeAlias = tuple[Tensor, Tensor]

_TEXT, _MASK = "encoder_hidden_states", "encoder_hidden_states_mask"
_OLDEST_DIFFUSERS = (0, 37)
"""Before, the model attended its padding."""

_LARGEST_SIDE, _LARGEST_TEXT = 2048, 3072
"""Tokens. The model's tables have 4,096 positions; text starts at half of the longer side."""


class QwenImageFamily(ModelFamily):
    """QwenImageTransformer2DModel, text to image and edit; layered images are refused.

    A grid of F frames is the output and F - 1 reference images of its size.
    """

    name = "qwen_image"
    class_names = ("QwenImageTransformer2DModel",)
    shift_grows_with_tokens = True
    pipeline_names: ClassVar[Mapping[str, str]] = {"prompt_embeds_mask": _MASK}
    vae_factors = (1, 8, 8)
    limits: ClassVar[Mapping[str, int]] = {
        "patch_size": 64,
        "in_channels": 4096,
        "out_channels": 4096,
        "num_layers": 1024,
        "num_attention_heads": 1024,
        "attention_head_dim": 1024,
        "joint_attention_dim": 65536,
    }

    def check_config(self, config: Config) -> None:
        """Raise ModelError if the config is out of bounds or of a layered or distilled variant."""
        check_diffusers(_OLDEST_DIFFUSERS)
        super().check_config(config)
        require_rotary_axes(config, 3)
        packed = config["out_channels"] * config["patch_size"] ** 2
        require_variant(config, "in_channels", (packed,))
        remedy = "layered images are not supported; use a text-to-image or edit checkpoint"
        for key in ("use_layer3d_rope", "use_additional_t_cond"):
            require_variant(config, key, (None, False), remedy)
        require_variant(config, "guidance_embeds", (None, False))

    def sites(self, config: Config) -> tuple[AttentionSite, ...]:
        """`transformer_blocks.i.attn` of every block."""
        heads, head_dim = config["num_attention_heads"], config["attention_head_dim"]
        return tuple(
            AttentionSite(f"transformer_blocks.{index}.attn", heads, heads, head_dim)
            for index in range(config["num_layers"])
        )

    def grid(self, config: Config, latent_size: tuple[int, int, int]) -> Grid:  # noqa: ARG002
        """One token for 2 x 2 latent pixels of each image."""
        return packed_grid(latent_size, _LARGEST_SIDE)

    def latent_shape(self, config: Config, geometry: Geometry) -> Shape:
        """(tokens, packed channels) of the output image."""
        return packed_shape(config["in_channels"], geometry.grid)

    def text_layout(self, config: Config, prompt: Mapping[str, Shape]) -> TextLayout:  # noqa: ARG002
        """The prompt's tokens, put at the end by `adapted`, padded to one length."""
        count = joint_text_count(prompt, _TEXT, _LARGEST_TEXT)
        return TextLayout(count, TextPosition.LAST, padded=True)

    def text_length(self, conditioning: Mapping[str, Tensor]) -> Tensor:
        """Ones of the mask, whose padding is at its end."""
        return conditioning[_MASK].sum(dim=1)

    def conditioning_spec(
        self, config: Config, geometry: Geometry
    ) -> tuple[ConditioningInput, ...]:
        """Text, its mask, packed latents of the references."""
        count = geometry.text.count
        return (
            ConditioningInput(_TEXT, ("B", count, config["joint_attention_dim"])),
            ConditioningInput(_MASK, ("B", count), torch.int32, Role.MASK),
            *reference_inputs(config["in_channels"], geometry.grid),
        )

    @contextmanager
    def adapted(self, model: torch.nn.Module, geometry: Geometry) -> Iterator[None]:
        """Text behind the image; rotary embeddings as real constants."""
        blocks: Any = model.transformer_blocks
        embed: Any = model.pos_embed
        device = constants_device(model)
        with torch.no_grad():
            both = embed(_images(geometry), max_txt_seq_len=geometry.text.count, device=device)
        rotary = tuple(real_rotary(unit) for unit in both)

        def same(*args: object, **kwargs: object) -> Any:
            return on_device_of(rotary, *args, *kwargs.values())

        with ExitStack() as stack:
            if _references_are_at_time_zero(model):
                chunk = {torch.chunk: sliced_chunk, Tensor.chunk: sliced_chunk}
                stack.enter_context(ReplacedFunctions(chunk))
            stack.enter_context(replaced(embed, "forward", same))
            for block in blocks:
                stack.enter_context(replaced(block.attn, "processor", _ImageFirstProcessor()))
            yield

    def forward(
        self,
        model: torch.nn.Module,
        geometry: Geometry,
        latents: Tensor,
        timestep: Tensor,
        inputs: Mapping[str, Tensor],
    ) -> tuple[Tensor, ...]:
        """Velocity [B, tokens, C] of the output image; the model's own unit of time is 1."""
        (sample,) = model(
            hidden_states=with_references(latents, inputs),
            encoder_hidden_states=inputs[_TEXT],
            encoder_hidden_states_mask=inputs[_MASK],
            timestep=timestep / 1000,
            img_shapes=_images(geometry),
            return_dict=False,
        )
        return (sample[:, : latents.shape[1]],)

    def read_call(self, config: Config, call: Mapping[str, Any]) -> ModelCall:
        """Images and their size are those of `img_shapes`."""
        arguments = CallArguments(call)
        states = arguments.tensor("hidden_states", ndim=3)
        images = _images_of(arguments.optional("img_shapes"))
        # Releases before 0.39 pass them, as the masks have them.
        arguments.optional("txt_seq_lens")
        _, rows, columns = images[0]
        latents, references = references_of(states, rows * columns)
        inputs = arguments.given(_TEXT) | references
        inputs[_MASK] = arguments.mask(_MASK, _TEXT)
        return finished_call(
            self,
            config,
            arguments,
            size=(len(images), 2 * rows, 2 * columns),
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


class _ImageFirstProcessor:
    """Computes what QwenDoubleStreamAttnProcessor2_0 computes.

    The stock processor puts the text first, so that its padding is amid the sequence, and turns
    query and key by complex numbers, which TensorRT does not have.
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        encoder_hidden_states_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        image_rotary_emb: tuple[Rotary, Rotary],
    ) -> tuple[Tensor, Tensor]:
        """Outputs of image [B, N, C] and text [B, L, C], whose mask is bool [B, L]; diffusers
        before 0.39 gives that of both, text first, as `attention_mask` [B, (1, 1,) L + N]."""
        text_mask = encoder_hidden_states_mask
        if text_mask is None and attention_mask is not None:
            text_mask = attention_mask.flatten(1)[:, : encoder_hidden_states.shape[1]]
        image_rotary, text_rotary = image_rotary_emb
        image = project_heads(hidden_states, attn.heads, attn.to_q, attn.to_k, attn.to_v)
        text = project_heads(
            encoder_hidden_states, attn.heads, attn.add_q_proj, attn.add_k_proj, attn.add_v_proj
        )
        image = image.normed(attn.norm_q, attn.norm_k).turned(*image_rotary)
        text = text.normed(attn.norm_added_q, attn.norm_added_k).turned(*text_rotary)
        image_output, text_output = attend_text_last(image, text, text_mask)
        return attn.to_out[0](image_output), attn.to_add_out(text_output)


def real_rotary(unit: Tensor) -> Rotary:
    """cos and sin [tokens, 1, head_dim / 2] of unit complex numbers [tokens, head_dim / 2]."""
    return unit.real[:, None].contiguous(), unit.imag[:, None].contiguous()


def sliced_chunk(tensor: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """torch.chunk; the two halves of a batch by slices.

    An axis of free size would become a SplitToSequence in ONNX, on which the exporter's optimizer
    fails (onnxscript 0.7.2).
    """
    if (chunks, dim) != (2, 0) or tensor.shape[0] % 2:
        return torch.chunk(tensor, chunks, dim)
    half = tensor.shape[0] // 2
    return tensor[:half], tensor[half:]


def _references_are_at_time_zero(model: Any) -> bool:
    """Edit as of 2511: a second half of the batch holds the modulation of the references."""
    return bool(model.config.get("zero_cond_t"))


def _images(geometry: Geometry) -> list[list[tuple[int, int, int]]]:
    """Tokens of each image, for one sample: the model takes the first sample's for all."""
    grid = geometry.grid
    return [[(1, grid.height, grid.width)] * grid.frames]


def _images_of(shapes: Any) -> list[tuple[int, int, int]]:
    """Tokens of each image of a sample; ArgumentError where samples or images differ in size."""
    samples = [
        [tuple(image) for image in (sample if isinstance(sample, list) else [sample])]
        for sample in shapes or ()
    ]
    sizes = {image for sample in samples for image in sample}
    if len(sizes) != 1 or len({len(sample) for sample in samples}) != 1:
        raise ArgumentError(
            "img_shapes",
            expected="images of one size, as many for each sample",
            actual=str(shapes)[:80],
            remedy="resize reference images to the output's size",
        )
    return samples[0]
