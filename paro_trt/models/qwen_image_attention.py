"""Qwen-Image's joint attention with the text behind the image, in real numbers."""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

Rotary: TypeAlias = tuple[Tensor, Tensor]
"""cos and sin f32 [tokens, head_dim / 2] of pairs of neighbouring channels."""


class ImageFirstProcessor:
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
        """Outputs of image [B, N, C] and text [B, L, C].

        Args:
            attn: the layer.
            hidden_states: [B, N, C], the image's tokens.
            encoder_hidden_states: [B, L, C], the text's.
            encoder_hidden_states_mask: bool [B, L].
            attention_mask: bool [B, L + N], text first: what diffusers before 0.39 gives instead.
            image_rotary_emb: of image and text.
        """
        tokens, text_tokens = hidden_states.shape[1], encoder_hidden_states.shape[1]
        image_rotary, text_rotary = image_rotary_emb
        query, key, value = _heads(attn, hidden_states, (attn.to_q, attn.to_k, attn.to_v))
        text_query, text_key, text_value = _heads(
            attn, encoder_hidden_states, (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
        )
        query = turned(attn.norm_q(query), image_rotary)
        key = turned(attn.norm_k(key), image_rotary)
        text_query = turned(attn.norm_added_q(text_query), text_rotary)
        text_key = turned(attn.norm_added_k(text_key), text_rotary)
        mask = encoder_hidden_states_mask
        if mask is None and attention_mask is not None:
            mask = attention_mask[:, :text_tokens]
        output = F.scaled_dot_product_attention(
            torch.cat([query, text_query], dim=1).transpose(1, 2),
            torch.cat([key, text_key], dim=1).transpose(1, 2),
            torch.cat([value, text_value], dim=1).transpose(1, 2),
            attn_mask=None if mask is None else F.pad(mask, (tokens, 0), value=True)[:, None, None],
        )
        image, text = output.transpose(1, 2).flatten(2).split([tokens, text_tokens], dim=1)
        return attn.to_out[0](image), attn.to_add_out(text)


def real_rotary(complex_rotary: Tensor) -> Rotary:
    """cos and sin of unit complex numbers [tokens, head_dim / 2]."""
    return complex_rotary.real.contiguous(), complex_rotary.imag.contiguous()


def turned(x: Tensor, rotary: Rotary) -> Tensor:
    """[B, tokens, H, D] with each pair of neighbouring channels turned by its angle."""
    cos, sin = (table[:, None] for table in rotary)
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    pairs = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    return pairs.flatten(-2).to(x.dtype)


def _heads(
    attn: Any, states: Tensor, projections: tuple[torch.nn.Module, ...]
) -> tuple[Tensor, ...]:
    """[B, tokens, H, D] by each projection."""
    return tuple(projection(states).unflatten(-1, (attn.heads, -1)) for projection in projections)
