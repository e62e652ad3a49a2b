"""Quantization as the op specifies it: FP32 arithmetic with a fixed order of operations.

Integer codes come out equal bit for bit in every implementation that follows these lines.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .spec import AttentionConfig

SIGNED_LEVELS = {8: 127, 4: 7}
"""Largest code of a symmetric signed quantization of Q, K or V."""

PROBABILITY_LEVELS = {8: 255, 4: 15}
"""Largest code of P, which is unsigned and relative to its (row, key block) maximum."""

SMALLEST_MAXIMUM = 2.0**-100
"""Groups whose largest magnitude is below this are all zeros: levels / maximum stays finite."""


class Quantized(NamedTuple):
    """The values are `codes * scale`; at 16 bits the codes are the values and the scale is 1."""

    codes: Tensor
    scale: Tensor

    def select(self, blocks: Tensor) -> Quantized:
        """The listed blocks only. blocks: bool, of the first dimension."""
        return Quantized(self.codes[blocks], self.scale[blocks])

    def to(self, dtype: torch.dtype) -> Quantized:
        """Both in another dtype."""
        return Quantized(self.codes.to(dtype), self.scale.to(dtype))


class ChannelAffine(NamedTuple):
    """channel_affine of one key/value head, FP32 [D] each; identity where not quantized."""

    key_mean: Tensor
    equalizer: Tensor
    value_mean: Tensor
    value_scale: Tensor

    @classmethod
    def of_head(
        cls, channel_affine: Tensor, kv_head: int, config: AttentionConfig
    ) -> ChannelAffine:
        """Rows of channel_affine [4, Hk, D] that apply at the config's bit widths."""
        key_mean, equalizer, value_mean, value_scale = channel_affine[:, kv_head]
        if config.qk_bits == 16:
            key_mean, equalizer = torch.zeros_like(key_mean), torch.ones_like(equalizer)
        if config.pv_bits == 16:
            value_mean, value_scale = torch.zeros_like(value_mean), torch.ones_like(value_scale)
        return cls(key_mean, equalizer, value_mean, value_scale)


def precondition(x: Tensor, shift: Tensor, factor: Tensor) -> Tensor:
    """Calibrated per-channel change of variables before quantization: (x - shift) * factor.

    x: [..., D]; shift, factor: [D]; FP32 in, FP32 out, two roundings, never contracted.
    """
    return (x - shift) * factor


def quantize(x: Tensor, bits: int, group: tuple[int, ...]) -> Quantized:
    """Symmetric quantization with one scale for each group of elements.

    scale = max|x| / levels; codes = round_half_even(x * (levels / max|x|)), in FP32. A group of
    zeros (maximum below 2^-100) has codes and scale 0. A non-finite element makes its group's
    scale NaN, so that everything computed from the group is NaN and nothing else is.

    Args:
        x: FP32 values.
        bits: 16 (returned unchanged), 8 (levels 127) or 4 (levels 7).
        group: dimensions that share a scale; kept with size 1 in the scale.
    """
    if bits == 16:
        return Quantized(x, torch.ones_like(x[..., :1]))
    levels = float(SIGNED_LEVELS[bits])
    maximum = x.abs().amax(dim=group, keepdim=True)
    usable = torch.isfinite(maximum) & (maximum > SMALLEST_MAXIMUM)
    safe_maximum = torch.where(usable, maximum, torch.ones_like(maximum))
    # A tensor over a tensor: torch turns a number over a tensor into two roundings.
    inverse = torch.full_like(safe_maximum, levels) / safe_maximum
    codes = torch.round(x * inverse).clamp(-levels, levels)
    codes = torch.where(usable, codes, torch.zeros_like(codes))
    scale = torch.where(usable, maximum / levels, torch.zeros_like(maximum))
    scale = torch.where(torch.isfinite(maximum), scale, torch.full_like(scale, math.nan))
    return Quantized(codes, scale)


def quantize_keys_apart(x: Tensor, bits: int) -> Quantized:
    """As `quantize` with a scale for each key, which is rounded to bfloat16: two bytes a key.

    code = round_half_even(x * (1 / scale)), within the levels. x: FP32 [..., D].
    """
    if bits == 16:
        return quantize(x, bits, (-1,))
    levels = float(SIGNED_LEVELS[bits])
    scale = quantize(x, bits, (-1,)).scale.bfloat16().float()
    usable = torch.isfinite(scale) & (scale > 0)
    safe_scale = torch.where(usable, scale, torch.ones_like(scale))
    inverse = torch.ones_like(safe_scale) / safe_scale
    codes = torch.round(x * inverse).clamp(-levels, levels)
    return Quantized(torch.where(usable, codes, torch.zeros_like(codes)), scale)


def quantize_probabilities(probability: Tensor, bits: int) -> Tensor:
    """Unsigned codes of P in [0, 1]: round_half_even(P * 255) or (P * 15); P itself at 16 bits."""
    if bits == 16:
        return probability
    return torch.round(probability * PROBABILITY_LEVELS[bits])
