"""Stage 1 of the specification: a head's keys and values as blocks, and their summary tokens."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .quantization import ChannelAffine, Quantized, precondition, quantize
from .smoothing import SmoothedKeys, rotate, smooth_keys
from .spec import FINE_SUMMARIES, AttentionConfig, block_count

FINE_STEP_GROUPS = 16
"""Groups of fine summaries that form one step: 64 keys."""


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

    key, value: codes [N, width, D] each, width block_k; log2_count: [N, width], what a key adds
    to its base-2 logit (0 for a token, log2 of its tokens for a summary, -inf where there is no
    key). A step of fine summaries has width 64 and scales for each key, [N, width, 1]; so have
    smoothed keys, whose codes are those of the key less its block's mean.
    """

    key: Quantized
    value: Quantized
    log2_count: Tensor
    smoothed: SmoothedKeys | None = None

    def select(self, blocks: Tensor) -> KeyBlocks:
        """The listed blocks only. blocks: bool [N]."""
        return KeyBlocks(
            self.key.select(blocks),
            self.value.select(blocks),
            self.log2_count[blocks],
            None if self.smoothed is None else self.smoothed.select(blocks),
        )


def split_blocks(x: Tensor, block: int, length: int) -> Tensor:
    """Cut reordered tokens [S, D] into [N, block, D]; tokens at or past `length` become 0."""
    tokens, channels = x.shape
    blocks = x.new_zeros(block_count(tokens, block) * block, channels)
    blocks[:length] = x[:length]
    return blocks.view(-1, block, channels)


def mean_rows(runs: Tensor, counts: Tensor) -> Tensor:
    """Mean of each run's existing rows, FP32 [N, D] (0 for a run with none).

    The sum is FP32 in one fixed order, halves added until one row is left, so that it is equal
    bit for bit in every implementation.

    runs: FP32 [N, run, D], run a power of two, 0 where no row exists; counts: rows that exist, [N].
    """
    while runs.shape[1] > 1:
        lower, upper = runs.chunk(2, dim=1)
        runs = lower + upper
    return runs[:, 0] / counts.clamp(min=1).float()[:, None]


def summarize_blocks(blocks: Tensor, counts: Tensor, bits: int, precision: Precision) -> Tensor:
    """Summary token of each block, FP32 [N, D]: `mean_rows` of its existing tokens.

    At 16 bits the mean is stored in the inputs' type, as the tokens are.
    """
    mean = mean_rows(blocks, counts)
    return precision.stored(mean) if bits == 16 else mean


def quantize_values(value: Tensor, bits: int) -> Quantized:
    """Blocks of values, FP32 [N, block_k, D]: one scale a block, one a (block, channel) at 4
    bits."""
    return quantize(value, bits, (1,) if bits == 4 else (1, 2))


def token_blocks(
    key: Tensor, value: Tensor, counts: Tensor, means: KeyMeans, config: AttentionConfig
) -> KeyBlocks:
    """Key blocks made of the tokens themselves; key, value FP32 [NK, block_k, D].

    Keys have one scale a block, or one each where they are smoothed.
    """
    exists = torch.arange(config.block_k, device=key.device) < counts[:, None]
    log2_count = key.new_zeros(exists.shape).masked_fill(~exists, -math.inf)
    values = quantize_values(value, config.pv_bits)
    if not config.smoothing:
        return KeyBlocks(quantize(key, config.qk_bits, (1, 2)), values, log2_count)
    keys, smoothed = smooth_keys(
        key, exists, means.means, means.of_blocks(), config.qk_bits, config.summary_key_bits
    )
    return KeyBlocks(keys, values, log2_count, smoothed)


class KeyMeans(NamedTuple):
    """Mean key of each key block: FP32 [NK, D], and quantized, block_k consecutive ones with one
    scale: codes [groups, block_k, D], scale [groups, 1, 1]."""

    means: Tensor
    quantized: Quantized

    def of_blocks(self) -> Quantized:
        """Codes [NK, 1, D] and scales [NK, 1, 1] of the means, apart."""
        codes, scale = self.quantized
        blocks = len(self.means)
        scales = scale[:, :1].expand(-1, codes.shape[1], 1).reshape(-1, 1, 1)
        return Quantized(codes.reshape(-1, 1, codes.shape[2])[:blocks], scales[:blocks])


def key_means(
    key: Tensor, counts: Tensor, config: AttentionConfig, precision: Precision
) -> KeyMeans:
    """key: FP32 [NK, block_k, D]; counts: [NK], the tokens that exist."""
    means = summarize_blocks(key, counts, config.qk_bits, precision)
    groups = split_blocks(means, config.block_k, len(counts))
    return KeyMeans(means, quantize(groups, config.summary_key_bits, (1, 2)))


def summary_blocks(
    means: KeyMeans, value: Tensor, counts: Tensor, config: AttentionConfig, precision: Precision
) -> KeyBlocks:
    """Key blocks made of summary tokens: block_k consecutive ones form a block.

    value: FP32 [NK, block_k, D]. Summary token j is the mean key and mean value of block j's
    existing tokens and weighs as many tokens as it represents.
    """
    value_mean = summarize_blocks(value, counts, config.pv_bits, precision)
    groups = block_count(len(counts), config.block_k)
    log2_count = value.new_full((groups * config.block_k,), -math.inf)
    log2_count[: len(counts)] = torch.log2(counts.float())
    return KeyBlocks(
        means.quantized,
        quantize_values(split_blocks(value_mean, config.block_k, len(counts)), config.pv_bits),
        log2_count.view(groups, config.block_k),
    )


class FineSummaries(NamedTuple):
    """The four summary tokens of each of NK key blocks, a group with scales of its own.

    key, value: codes [NK, 4, D], scale [NK, 1, 1]; log2_count: [NK, 4], -inf where a run of the
    block has no tokens.
    """

    key: Quantized
    value: Quantized
    log2_count: Tensor

    def gather(self, fine: Tensor) -> KeyBlocks:
        """Steps of `FINE_STEP_GROUPS` groups of the listed blocks (bool [NK]), in their order."""
        groups = int(fine.sum())
        steps = block_count(groups, FINE_STEP_GROUPS)
        absent = steps * FINE_STEP_GROUPS - groups
        width = FINE_STEP_GROUPS * FINE_SUMMARIES

        def step_rows(x: Tensor, padding: float) -> Tensor:
            rows = x[fine].expand(groups, FINE_SUMMARIES, x.shape[2])
            padded = torch.cat([rows, rows.new_full((absent, *rows.shape[1:]), padding)])
            return padded.reshape(steps, width, x.shape[2])

        return KeyBlocks(
            Quantized(step_rows(self.key.codes, 0.0), step_rows(self.key.scale, 0.0)),
            Quantized(step_rows(self.value.codes, 0.0), step_rows(self.value.scale, 0.0)),
            step_rows(self.log2_count[:, :, None], -math.inf)[:, :, 0],
        )


def fine_summaries(
    key: Tensor, value: Tensor, counts: Tensor, config: AttentionConfig, precision: Precision
) -> FineSummaries:
    """Groups of four summary tokens; key, value FP32 [NK, block_k, D], counts [NK].

    Values have 8 bits where the call's have 4: their scale a channel could not be gathered.
    """
    blocks, block_k, channels = key.shape
    run = block_k // FINE_SUMMARIES
    starts = torch.arange(FINE_SUMMARIES, device=key.device) * run
    run_counts = (counts[:, None] - starts).clamp(0, run)
    value_bits = max(config.pv_bits, 8)

    def groups(x: Tensor, bits: int) -> Quantized:
        means = summarize_blocks(x.reshape(-1, run, channels), run_counts.view(-1), bits, precision)
        return quantize(means.view(blocks, FINE_SUMMARIES, channels), bits, (1, 2))

    keys, values = groups(key, config.summary_key_bits), groups(value, value_bits)
    one = (blocks, 1, 1)
    return FineSummaries(
        keys._replace(scale=keys.scale[:, :1].reshape(one)),
        values._replace(scale=values.scale[:, :1].reshape(one)),
        torch.log2(run_counts.float()),
    )


class HeadKeys(NamedTuple):
    """All a query head attends: its NK key blocks, their summary tokens (None where dropped
    blocks vanish), the summaries of fine blocks (None where there are no such blocks), and bool
    [NK], the key blocks in which a token exists."""

    tokens: KeyBlocks
    summaries: KeyBlocks | None
    fine: FineSummaries | None
    exists: Tensor

    def attended_by(self, exact: Tensor, fine: Tensor | None = None) -> list[KeyBlocks]:
        """What a query block with these mask rows (bool [NK]) attends: exact blocks, then steps
        of fine summaries, then the summary tokens of the others, a summary block without any
        left out. A block in both rows is exact."""
        listed = exact & self.exists
        sources = [self.tokens.select(listed)]
        if self.fine is not None and fine is not None:
            gathered = fine & self.exists & ~listed
            sources.append(self.fine.gather(gathered))
            listed = listed | gathered
        if self.summaries is not None:
            log2_count = self.summaries.log2_count.clone()
            log2_count.view(-1)[: len(listed)][listed] = -math.inf
            remaining = self.summaries._replace(log2_count=log2_count)
            sources.append(remaining.select(~torch.isneginf(log2_count).all(dim=1)))
        return [source for source in sources if len(source.log2_count)]

    def all_tokens(self) -> list[KeyBlocks]:
        """What dense attention attends: every key block with a token."""
        return [self.tokens.select(self.exists)]


def prepare_keys(
    key: Tensor,
    value: Tensor,
    length: int,
    affine: ChannelAffine,
    signs: Tensor | None,
    config: AttentionConfig,
    precision: Precision,
) -> HeadKeys:
    """Reordered keys and values [S, D] of one head -> its quantized blocks and summaries.

    signs: of its rotation, [D]; None for none.
    """
    key_blocks = split_blocks(key.float(), config.block_k, length)
    value_blocks = split_blocks(value.float(), config.block_k, length)
    starts = torch.arange(len(key_blocks), device=key.device) * config.block_k
    counts = (length - starts).clamp(0, config.block_k)
    absent = (torch.arange(config.block_k, device=key.device) >= counts[:, None])[:, :, None]
    # The affine moves the zeros of absent tokens; they must not enter a scale or a mean.
    key_blocks = precondition(key_blocks, affine.key_mean, 1.0 / affine.equalizer)
    key_blocks = rotate(key_blocks.masked_fill(absent, 0.0), signs)
    value_blocks = precondition(value_blocks, affine.value_mean, 1.0 / affine.value_scale)
    value_blocks = value_blocks.masked_fill(absent, 0.0)
    means = key_means(key_blocks, counts, config, precision)
    summaries = fine = None
    if config.pool_dropped:
        summaries = summary_blocks(means, value_blocks, counts, config, precision)
    if config.fine_summaries:
        fine = fine_summaries(key_blocks, value_blocks, counts, config, precision)
    tokens = token_blocks(key_blocks, value_blocks, counts, means, config)
    return HeadKeys(tokens, summaries, fine, counts > 0)
