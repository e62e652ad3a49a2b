"""Blocks chosen at run time, as specified: by an estimate of the error that each would leave.

The estimate takes means of `ROUTING_RUN` tokens in place of the tokens. The idea of choosing at
run time from means is DHSA's (arXiv 2510.24606); the score, an error of the output, is this
project's (docs/design.md, section 5).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .blocks import mean_rows, split_blocks
from .spec import ROUTING_RUN, AttentionConfig, block_count


class RunMeans(NamedTuple):
    """Means of runs of tokens: mean: [N, D]; tokens: [N], how many exist in each run."""

    mean: Tensor
    tokens: Tensor


def run_means(x: Tensor, run: int, rows: int, compute: torch.dtype) -> RunMeans:
    """Means of runs of existing tokens, summed in FP32 and rounded to the type of `x`.

    Args:
        x: [length, D], the reordered tokens that exist.
        run: tokens in a run, a power of two.
        rows: runs to return; those past the last token are 0.
        compute: dtype of the means that are returned.
    """
    length, channels = x.shape
    padded = x.new_zeros(rows * run, channels, dtype=torch.float32)
    padded[:length] = x
    starts = torch.arange(rows, device=x.device) * run
    count = (length - starts).clamp(0, run)
    mean = mean_rows(split_blocks(padded, run, length), count)
    return RunMeans(mean.to(x.dtype).to(compute), count)


def estimated_errors(
    query: Tensor, key: Tensor, value: Tensor, config: AttentionConfig, compute: torch.dtype
) -> Tensor:
    """What each (query block, key block) would leave if it were not exact: [NQ, NK].

    With w the attention between means, o its output, m_J and p_J the sums of w and of w v over
    the runs of block J, and c_J the weight of J's summary token (0 where dropped blocks vanish):
    the sum over the runs of the query block of |p_J - c_J v_J - (m_J - c_J) o|^2.

    Args:
        query: [rows, D], whole query blocks, of which the last may be cut short.
        key, value: [length, D], all tokens that exist. All are reordered, without preconditioning.
        compute: dtype of everything after the means.
    """
    channels = query.shape[1]
    scale = config.softmax_scale(channels)
    query_blocks = block_count(len(query), config.block_q)
    key_blocks = block_count(len(key), config.block_k)
    runs = config.block_k // ROUTING_RUN
    rows = run_means(query, ROUTING_RUN, query_blocks * (config.block_q // ROUTING_RUN), compute)
    keys = run_means(key, ROUTING_RUN, key_blocks * runs, compute)
    values = run_means(value, ROUTING_RUN, key_blocks * runs, compute)
    block_keys = run_means(key, config.block_k, key_blocks, compute)
    block_values = run_means(value, config.block_k, key_blocks, compute)
    errors = []
    for block_rows, counts in zip(
        rows.mean.split(config.block_q // ROUTING_RUN),
        rows.tokens.split(config.block_q // ROUTING_RUN),
        strict=True,
    ):
        logits = scale * (block_rows @ keys.mean.T) + torch.log(keys.tokens.to(compute))
        lse = logits.logsumexp(dim=1, keepdim=True)
        weight = torch.exp(logits - lse)
        output = weight @ values.mean
        weight = weight.view(len(block_rows), key_blocks, runs)
        mass = weight.sum(dim=2)
        part = torch.einsum("ajr,jrd->ajd", weight, values.mean.view(key_blocks, runs, channels))
        summary = torch.zeros_like(mass)
        if config.pool_dropped:
            summary = scale * (block_rows @ block_keys.mean.T)
            summary = torch.exp(summary + torch.log(block_keys.tokens.to(compute)) - lse)
        left = (
            part
            - summary[:, :, None] * block_values.mean
            - (mass - summary)[:, :, None] * output[:, None, :]
        )
        error = left.square().sum(dim=2)
        errors.append(torch.where(counts[:, None] > 0, error, 0.0).sum(dim=0))
    return torch.stack(errors)


def route_head(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    count: int,
    config: AttentionConfig,
    compute: torch.dtype,
) -> Tensor:
    """The blocks that routing adds: bool [NQ, NK], at most `count` in a row, none in `mask`.

    Those with the largest estimated error, ties to the lower index; an error that is not a
    number counts as the largest.

    Args:
        query, key, value: as of `estimated_errors`.
        mask: bool [NQ, NK], the blocks that are exact anyway.
        count: clamped to [0, NK].
        compute: float32, or float64 for the oracle.
    """
    chosen = torch.zeros_like(mask)
    count = min(max(count, 0), mask.shape[1])
    if count == 0:
        return chosen
    errors = estimated_errors(query, key, value, config, compute)
    rows, blocks = errors.shape
    known = mask[:rows, :blocks]
    errors = errors.nan_to_num(nan=math.inf, posinf=math.inf).masked_fill(known, -math.inf)
    ranked = errors.argsort(dim=1, descending=True, stable=True)[:, :count]
    chosen[:rows, :blocks].scatter_(1, ranked, value=True)
    return chosen & ~mask
