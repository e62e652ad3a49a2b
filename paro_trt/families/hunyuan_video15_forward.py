"""HunyuanVideo-1.5's forward as one graph: nothing depends on values, no mask is N x N."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .base import Shape
from .shared.adapt import constants_device, on_device_of, replaced
from .shared.joint_attention import attend_text_last, project_heads

_PROMPT, _GLYPH, _IMAGE = range(3)
"""Rows of the model's embedding of what a token is."""


@contextmanager
def without_branches_on_data(model: Any, size: Shape, *, image_exists: bool) -> Iterator[None]:
    """Within the context the model computes the same for samples of one size.

    The stock forward asks whether the image is all zeros, packs the tokens that exist sample by
    sample, and makes masks [B, 1, N, N], whose rows of padding hold nothing.

    Args:
        model: HunyuanVideo15Transformer3DModel.
        size: frames, height and width of the latents.
        image_exists: whether samples have an image.
    """
    channels, device = model.config.in_channels, constants_device(model)
    with torch.no_grad():
        both = model.rope(torch.empty(1, channels, *size, device=device))
    # The model's tables repeat each angle for the two channels that it turns.
    rotary = tuple(table[:, None, ::2].contiguous() for table in both)
    refiner = model.context_embedder.token_refiner
    with ExitStack() as stack:
        stack.enter_context(replaced(refiner, "forward", partial(_refine, refiner)))
        for block in model.transformer_blocks:
            stack.enter_context(replaced(block.attn, "processor", _KeyMaskProcessor()))
        forward = partial(_forward, model, rotary, image_exists)
        stack.enter_context(replaced(model, "forward", forward))
        yield


def _forward(
    model: Any,
    rotary: tuple[Tensor, Tensor],
    image_exists: bool,
    *,
    hidden_states: Tensor,
    timestep: Tensor,
    encoder_hidden_states: Tensor,
    encoder_attention_mask: Tensor,
    encoder_hidden_states_2: Tensor,
    encoder_attention_mask_2: Tensor,
    image_embeds: Tensor,
    return_dict: bool,  # noqa: ARG001
) -> tuple[Tensor]:
    """What the model's own forward computes, `return_dict` being False."""
    rotary = on_device_of(rotary, hidden_states)
    frames, height, width = hidden_states.shape[2:]
    # By a call: where weights are offloaded, a hook of it brings them.
    kinds = model.cond_type_embed(torch.arange(3, device=hidden_states.device))
    time = model.time_embed(timestep)
    prompt = model.context_embedder(encoder_hidden_states, timestep, encoder_attention_mask)
    glyphs = model.context_embedder_2(encoder_hidden_states_2)
    parts = [glyphs + kinds[_GLYPH], prompt + kinds[_PROMPT]]
    first = encoder_attention_mask_2.sum(dim=1)
    if image_exists:
        parts.insert(0, model.image_embedder(image_embeds) + kinds[_IMAGE])
        first = first + image_embeds.shape[1]
    text, exists = pack_existing(
        torch.cat(parts, dim=1), first, encoder_attention_mask.sum(dim=1), prompt.shape[1]
    )
    video = model.x_embedder(hidden_states)
    for block in model.transformer_blocks:
        video, text = block(video, text, time, exists, rotary)
    video = model.proj_out(model.norm_out(video, time))
    patch = (model.config.patch_size_t, model.config.patch_size, model.config.patch_size)
    return (_unpatched(video, (frames, height, width), patch),)


def pack_existing(
    tokens: Tensor, first: Tensor, second: Tensor, second_size: int
) -> tuple[Tensor, Tensor]:
    """Close the gap of padding between two texts: what exists comes first, padding last.

    Args:
        tokens: [B, T, C], the second text being the last `second_size`.
        first: int [B], leading tokens that exist.
        second: int [B], tokens of the second text that exist, from its start on.
        second_size: of the second text with its padding.

    Returns:
        Tokens [B, T, C] and which of them exist, bool [B, T].
    """
    count = tokens.shape[1]
    slot = torch.arange(count, device=tokens.device)[None]
    first, second = first[:, None], second[:, None]
    source = torch.where(slot < first, slot, slot + (count - second_size - first))
    index = source.clamp(max=count - 1)[..., None].expand(-1, -1, tokens.shape[2])
    return tokens.gather(1, index), slot < first + second


def _refine(refiner: Any, hidden_states: Tensor, temb: Tensor, attention_mask: Tensor) -> Tensor:
    """Masks the padding's keys; the stock forward masks its queries too, to no effect on text."""
    mask = attention_mask.bool()[:, None, None]
    for block in refiner.refiner_blocks:
        hidden_states = block(hidden_states, temb, mask)
    return hidden_states


def _unpatched(video: Tensor, size: tuple[int, int, int], patch: tuple[int, int, int]) -> Tensor:
    """[B, C, F, H, W] from tokens [B, N, C * patch]."""
    grid = tuple(extent // step for extent, step in zip(size, patch, strict=True))
    video = video.unflatten(1, grid).unflatten(-1, (-1, *patch))
    return video.permute(0, 4, 1, 5, 2, 6, 3, 7).flatten(6, 7).flatten(4, 5).flatten(2, 3)


class _KeyMaskProcessor:
    """Computes what HunyuanVideo15AttnProcessor2_0 computes for the tokens that exist."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor,
        image_rotary_emb: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Outputs of video [B, N, C] and text [B, L, C], of which the mask [B, L] exists."""
        video = project_heads(hidden_states, attn.heads, attn.to_q, attn.to_k, attn.to_v)
        video = video.normed(attn.norm_q, attn.norm_k).turned(*image_rotary_emb)
        text = project_heads(
            encoder_hidden_states, attn.heads, attn.add_q_proj, attn.add_k_proj, attn.add_v_proj
        ).normed(attn.norm_added_q, attn.norm_added_k)
        video_output, text_output = attend_text_last(video, text, attention_mask)
        return attn.to_out[0](video_output), attn.to_add_out(text_output)
