"""Attention over an image or video, alone or with text: parts for processors.

Rotary embeddings are stacked and flattened. Written into slices, as diffusers does for some models,
they are a ScatterND in ONNX, which copies the whole tensor once more.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Heads(NamedTuple):
    """Query, key and value [B, tokens, H, D] of one part of the joint sequence."""

    query: Tensor
    key: Tensor
    value: Tensor

    def normed(self, query_norm: torch.nn.Module, key_norm: torch.nn.Module) -> Heads:
        """After the norms of query and key."""
        return Heads(query_norm(self.query), key_norm(self.key), self.value)

    def turned(self, cos: Tensor, sin: Tensor) -> Heads:
        """After rotary embeddings of query and key; tables as of `turned`."""
        return Heads(turned(self.query, cos, sin), turned(self.key, cos, sin), self.value)


def project_heads(states: Tensor, heads: int, query: Any, key: Any, value: Any) -> Heads:
    """States [B, tokens, C] by three linear layers."""
    return Heads(*(layer(states).unflatten(-1, (heads, -1)) for layer in (query, key, value)))


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """[B, tokens, H, D] with each pair of neighbouring channels turned by its angle.

    Args:
        x: [B, tokens, H, D].
        cos: f32 [tokens, H or 1, D / 2].
        sin: the same.
    """
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    pairs = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    return pairs.flatten(-2).to(x.dtype)


def attend(heads: Heads) -> Tensor:
    """Output [B, tokens, H * D]."""
    query, key, value = (part.transpose(1, 2) for part in heads)
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


def attend_text_last(visual: Heads, text: Heads, text_mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Outputs [B, tokens, H * D] of both parts; the mask bool [B, L] says which text exists."""
    tokens, text_tokens = visual.query.shape[1], text.query.shape[1]
    query, key, value = (
        torch.cat(parts, dim=1).transpose(1, 2) for parts in zip(visual, text, strict=True)
    )
    mask = None
    if text_mask is not None:
        mask = F.pad(text_mask, (tokens, 0), value=True)[:, None, None]
    output = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    visual_output, text_output = (
        output.transpose(1, 2).flatten(2).split([tokens, text_tokens], dim=1)
    )
    return visual_output, text_output
