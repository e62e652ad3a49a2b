"""Smoothed 4-bit query x key: what 4 bits carry is what the means of both blocks leave.

With q_I the mean of a query block and k_J that of a key block, in rotated channels,

    q . k = (q - q_I) . (k - k_J)  +  q_I . (k - k_J)  +  q . k_J

and only the first product has 4 bits (docs/design.md, section 5). Subtracting both means is
SageAttention2's idea (arXiv 2411.10958), the rotation is QuaRot's (arXiv 2404.00456).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .quantization import Quantized, quantize, quantize_keys_apart

MEAN_BITS = 8
"""Of the rows that meet means, and of the keys that meet a mean query."""


class SmoothedKeys(NamedTuple):
    """What key blocks have besides the 4-bit codes of their keys less the block's mean.

    centred: codes [N, width, D] of the same at 8 bits, scale [N, 1, 1];
    mean: codes [N, 1, D] of the blocks' means at 8 bits, scale [N, 1, 1].
    """

    centred: Quantized
    mean: Quantized

    def select(self, blocks: Tensor) -> SmoothedKeys:
        """The listed blocks only. blocks: bool [N]."""
        return SmoothedKeys(self.centred.select(blocks), self.mean.select(blocks))

    def to(self, dtype: torch.dtype) -> SmoothedKeys:
        """All in another dtype."""
        return SmoothedKeys(self.centred.to(dtype), self.mean.to(dtype))


class QueryRows(NamedTuple):
    """Query rows that attend the same blocks.

    rows: codes [rows, D], scale [rows, 1]; of a smoothed query at 8 bits.
    residual: the same of the rows less `mean`, at 4 bits; mean: [D]. Both are None where the query
    is not smoothed, or is a mean itself.
    """

    rows: Quantized
    residual: Quantized | None = None
    mean: Tensor | None = None

    def to(self, dtype: torch.dtype) -> QueryRows:
        """All in another dtype."""
        residual = None if self.residual is None else self.residual.to(dtype)
        mean = None if self.mean is None else self.mean.to(dtype)
        return QueryRows(self.rows.to(dtype), residual, mean)


def rotate(x: Tensor, signs: Tensor | None) -> Tensor:
    """Channels multiplied by signs, then a Hadamard transform over sqrt(D).

    Sums and differences of channels 1, 2, ..., D/2 apart are FP32 and rounded once each, so that
    every implementation has the same bits.

    x: FP32 [..., D], D a power of two; signs: [D], or None for no rotation.
    """
    if signs is None:
        return x
    channels = x.shape[-1]
    x = torch.where(signs < 0, -x, x)
    stride = 1
    while stride < channels:
        pairs = x.unflatten(-1, (-1, 2, stride))
        first, second = pairs[..., 0, :], pairs[..., 1, :]
        x = torch.stack([first + second, first - second], dim=-2).flatten(-3)
        stride *= 2
    return x * torch.tensor(1.0 / math.sqrt(channels), dtype=torch.float32)


def head_signs(rotation: Tensor | None, kv_head: int) -> Tensor | None:
    """The signs of a head, int32 [D]; None where it is not rotated. rotation: int32 [Hk, D]."""
    if rotation is None or int(rotation[kv_head, 0]) == 0:
        return None
    return rotation[kv_head]


def mean_in_type(mean: Tensor, dtype: torch.dtype) -> Tensor:
    """FP32 values rounded to `dtype`, within its finite range: a mean of finite rows is finite."""
    largest = torch.finfo(dtype).max
    return mean.clamp(-largest, largest).to(dtype).float()


def smooth_keys(
    key: Tensor, exists: Tensor, means: Tensor, mean_codes: Quantized, bits: int, mean_bits: int
) -> tuple[Quantized, SmoothedKeys]:
    """Codes of key blocks less their means, at `bits`, and what belongs to them.

    key: FP32 [N, width, D]; exists: bool [N, width]; means: FP32 [N, D]; mean_codes: of them,
    codes [N, 1, D]. 16 bits leave the values as they are.
    """
    centred = (key - means[:, None]).masked_fill(~exists[:, :, None], 0.0)
    smoothed = SmoothedKeys(quantize(centred, mean_bits, (1, 2)), mean_codes)
    return quantize_keys_apart(centred, bits), smoothed


def smooth_query(rows: Tensor, mean: Tensor, bits: int, mean_bits: int) -> QueryRows:
    """rows: FP32 [rows, D], preconditioned and rotated; mean: [D], the query block's."""
    return QueryRows(quantize(rows, mean_bits, (1,)), quantize(rows - mean, bits, (1,)), mean)


def scaled_products(query: QueryRows, keys: Quantized, factor: float) -> Tensor:
    """q . k * factor [rows, N, width] of keys that are not smoothed."""
    return _products(query.rows, keys, factor)


def smoothed_products(
    query: QueryRows, keys: Quantized, smoothed: SmoothedKeys, factor: float
) -> Tensor:
    """The same of smoothed keys: the sum of the three products."""
    centred, means = smoothed.centred, _products(query.rows, smoothed.mean, factor)
    if query.residual is None or query.mean is None:
        return _products(query.rows, centred, factor) + means
    one = torch.ones_like(centred.scale[:1, 0])
    mean_query = Quantized(query.mean.to(one.dtype)[None], one)
    of_keys = _products(mean_query, centred, factor)
    return _products(query.residual, keys, factor) + (of_keys + means)


def _products(query: Quantized, keys: Quantized, factor: float) -> Tensor:
    """Of codes [rows, D] and [N, width, D], with their scales."""
    blocks, width, channels = keys.codes.shape
    products = query.codes @ keys.codes.reshape(-1, channels).T
    scales = query.scale[:, :, None] * keys.scale[:, :, 0]
    return products.view(len(products), blocks, width) * (scales * factor)
