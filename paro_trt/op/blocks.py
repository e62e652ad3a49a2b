"""Stage 1 of the specification: a head's keys and values as blocks, and their summary tokens."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .quantization import ChannelAffine, Quantized, precondition, quantize
from .spec import AttentionConfig, block_count


class Precision(NamedTuple):
    """What the arithmetic between quantizations is done in.

    compute: dtype of sums and softmax; storage: the 16-bit type that unquantized P and summary
    tokens are rounded to before their product, None to leave them unrounded.
    """

    compute: torch.dtype
    storage: torch.dtype | None

    def stored(self, x: Tensor) -> Tensor:
        """x rounded to the storage type, in x's own dtype."""
        return x if self.storage is None else x.to(self.storage).to(x.dtype)


class KeyBlocks(NamedTuple):
    """Key blocks of one (sample, key/value head) ready to be attended.

    key: codes [N, block_k, D]; value: codes [N, block_k, D]; log2_count: [N, block_k], what a
    key adds to its base-2 logit (0 for a token, log2 of its tokens for a summary, -inf where
    there is no key).
    """

    key: Quantized
    value: Quantized
    log2_count: Tensor

    def select(self, blocks: Tensor) -> KeyBlocks:
        """The listed blocks only. blocks: bool [N]."""
        return KeyBlocks(
            Quantized(self.key.codes[blocks], self.key.scale[blocks]),
            Quantized(self.value.codes[blocks], self.value.scale[blocks]),
            self.log2_count[blocks],
        )


def split_blocks(x: Tensor, block: int, length: int) -> Tensor:
    """Cut reordered tokens [S, D] into [N, block, D]; tokens at or past `length` become 0."""
    tokens, channels = x.shape
    blocks = x.new_zeros(block_count(tokens, block) * block, channels)
    blocks[:length] = x[:length]
    return blocks.view(-1, block, channels)


def summarize_blocks(blocks: Tensor, counts: Tensor, bits: int, precision: Precision) -> Tensor:
    """Mean of each block's existing tokens, FP32 [N, D] (0 for a block with none).

    The sum is FP32 in one fixed order, halves added until one token is left, so that quantized
    summaries are equal bit for bit in every implementation. At 16 bits the mean is stored in the
    inputs' type, as the tokens are.

    blocks: FP32 [N, block, D], block a power of two, 0 where no token exists; counts: tokens
    that exist, [N].
    """
    while blocks.shape[1] > 1:
        lower, upper = blocks.chunk(2, dim=1)
        blocks = lower + upper
    mean = blocks[:, 0] / counts.clamp(min=1).float()[:, None]
    return precision.stored(mean) if bits == 16 else mean


def quantize_key_blocks(
    key: Tensor, value: Tensor, log2_count: Tensor, config: AttentionConfig
) -> KeyBlocks:
    """Quantize blocks of keys and values: FP32 [N, block_k, D] each.

    Keys: one scale a block. Values: one a block at 8 bits, one a (block, channel) at 4 bits.
    """
    value_group = (1,) if config.pv_bits == 4 else (1, 2)
    return KeyBlocks(
        quantize(key, config.qk_bits, (1, 2)),
        quantize(value, config.pv_bits, value_group),
        log2_count,
    )


def token_blocks(key: Tensor, value: Tensor, counts: Tensor, config: AttentionConfig) -> KeyBlocks:
    """Key blocks made of the tokens themselves; key, value FP32 [NK, block_k, D]."""
    exists = torch.arange(config.block_k, device=key.device) < counts[:, None]
    log2_count = key.new_zeros(exists.shape).masked_fill(~exists, -math.inf)
    return quantize_key_blocks(key, value, log2_count, config)


def summary_blocks(
    key: Tensor, value: Tensor, counts: Tensor, config: AttentionConfig, precision: Precision
) -> KeyBlocks:
    """Key blocks made of summary tokens: block_k consecutive ones form a block.

    key, value: FP32 [NK, block_k, D]. Summary token j is the mean key and mean value of block
    j's existing tokens and weighs as many tokens as it represents.
    """
    key_mean = summarize_blocks(key, counts, config.qk_bits, precision)
    value_mean = summarize_blocks(value, counts, config.pv_bits, precision)
    groups = block_count(len(counts), config.block_k)
    log2_count = key.new_full((groups * config.block_k,), -math.inf)
    log2_count[: len(counts)] = torch.log2(counts.float())
    return quantize_key_blocks(
        split_blocks(key_mean, config.block_k, len(counts)),
        split_blocks(value_mean, config.block_k, len(counts)),
        log2_count.view(groups, config.block_k),
        config,
    )


class HeadKeys(NamedTuple):
    """All a query head attends: its NK key blocks, their summary tokens (None where dropped
    blocks vanish), and bool [NK], the key blocks in which a token exists."""

    tokens: KeyBlocks
    summaries: KeyBlocks | None
    exists: Tensor

    def attended_by(self, mask_row: Tensor) -> list[KeyBlocks]:
        """What a query block with this mask row (bool [NK]) attends: listed blocks, then the
        summary tokens of the others, a summary block without any left out."""
        listed = mask_row & self.exists
        sources = [self.tokens.select(listed)]
        if self.summaries is not None:
            log2_count = self.summaries.log2_count.clone()
            log2_count.view(-1)[: len(listed)][listed] = -math.inf
            remaining = self.summaries._replace(log2_count=log2_count)
            sources.append(remaining.select(~torch.isneginf(log2_count).all(dim=1)))
        return sources


def prepare_keys(
    key: Tensor,
    value: Tensor,
    length: int,
    affine: ChannelAffine,
    config: AttentionConfig,
    precision: Precision,
) -> HeadKeys:
    """Reordered keys and values [S, D] of one head -> its quantized blocks and summaries."""
    key_blocks = split_blocks(key.float(), config.block_k, length)
    value_blocks = split_blocks(value.float(), config.block_k, length)
    starts = torch.arange(len(key_blocks), device=key.device) * config.block_k
    counts = (length - starts).clamp(0, config.block_k)
    absent = (torch.arange(config.block_k, device=key.device) >= counts[:, None])[:, :, None]
    # The affine moves the zeros of absent tokens; they must not enter a scale or a mean.
    key_blocks = precondition(key_blocks, affine.key_mean, 1.0 / affine.equalizer)
    key_blocks = key_blocks.masked_fill(absent, 0.0)
    value_blocks = precondition(value_blocks, affine.value_mean, 1.0 / affine.value_scale)
    value_blocks = value_blocks.masked_fill(absent, 0.0)
    summaries = None
    if config.pool_dropped:
        summaries = summary_blocks(key_blocks, value_blocks, counts, config, precision)
    return HeadKeys(token_blocks(key_blocks, value_blocks, counts, config), summaries, counts > 0)
