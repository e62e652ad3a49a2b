"""Block statistics of one attention head, streamed over query tiles; never S x S in memory.

Notation: rows i of a query block, tokens j of a key block b, both in a candidate order;
P = softmax(scale q k^T), o_i = sum_j P_ij v_j, m_ib = sum_{j in b} P_ij. Leaving b out of the
softmax moves row i by sum_{j in b} P_ij (v_j - o_i), to first order in m_ib.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..op.spec import block_count
from .inputs import HeadInputs

PAPER_EPSILON = 1e-3
"""Below it an entry of P counts as empty in the paper's metric; P as is, its rows sum to one."""


class Tiling(NamedTuple):
    """Tokens in a query block and in a key block."""

    block_q: int
    block_k: int


class BlockStatistics(NamedTuple):
    """Sums over the rows of each (query block, key block); FP32, on the inputs' device.

    mass: [n, NK], sum_i m_ib.
    error: [n, NK], squared output error that leaving the block out costs: with pooling, the
        part that its summary token does not recover.
    energy: [n], sum_i |o_i|^2.
    empty_share: [n, NK], share of entries of P below `PAPER_EPSILON`.
    peak_ratio: [n, NK], largest entry of P over the mean entry.
    """

    mass: Tensor
    error: Tensor
    energy: Tensor
    empty_share: Tensor
    peak_ratio: Tensor


class _KeyBlocks(NamedTuple):
    """Keys and values of one head in a candidate order, padded with zeros to whole blocks.

    key: [NK*block_k, D]; value: [NK, block_k, D]; key_mean, value_mean: [NK, D];
    tokens: [NK], how many exist; absent: bool [NK*block_k].
    """

    key: Tensor
    value: Tensor
    key_mean: Tensor
    value_mean: Tensor
    tokens: Tensor
    absent: Tensor


def block_statistics(
    inputs: HeadInputs,
    order: Tensor,
    tiling: Tiling,
    *,
    pooled: bool,
    query_blocks: Sequence[int] | None = None,
    rows_per_block: int | None = None,
    paper: bool = False,
) -> BlockStatistics:
    """Statistics of every (query block, key block) of one head under one order.

    Memory in addition to the inputs: block_q x S and block_q x NK x D floats.

    Args:
        inputs: the head's query, key and value; computed in FP32.
        order: int64 [S], the candidate permutation, on the inputs' device.
        tiling: block sizes.
        pooled: a summary token represents each key block that is left out.
        query_blocks: the n query blocks to look at, all with tokens that exist; None means every
            such block.
        rows_per_block: look at no more rows of each, spread evenly; None means all. The sums
            are then over these rows.
        paper: fill empty_share and peak_ratio (zeros otherwise).
    """
    length = inputs.length
    blocks = _key_blocks(inputs.key.float(), inputs.value.float(), order, tiling.block_k, length)
    total = block_count(length, tiling.block_q)
    chosen = range(total) if query_blocks is None else query_blocks
    tiles = [
        _tile_statistics(
            inputs.query[order[_rows(index, tiling.block_q, length, rows_per_block)]].float(),
            blocks,
            inputs.scale,
            pooled=pooled,
            paper=paper,
        )
        for index in chosen
    ]
    return BlockStatistics(*(torch.stack(parts) for parts in zip(*tiles, strict=True)))


def sampled_query_blocks(total: int, limit: int) -> tuple[int, ...]:
    """At most `limit` of `total` query blocks, spread evenly."""
    count = min(total, limit)
    return tuple((2 * index + 1) * total // (2 * count) for index in range(count))


def _rows(index: int, block_q: int, length: int, limit: int | None) -> slice:
    """Positions of a query block, every second, third, ... so that no more than `limit` remain."""
    start, end = index * block_q, min((index + 1) * block_q, length)
    return slice(start, end, 1 if limit is None else -(-(end - start) // limit))


def _key_blocks(key: Tensor, value: Tensor, order: Tensor, block: int, length: int) -> _KeyBlocks:
    tokens = order.numel()
    number = block_count(tokens, block)
    kept = order[:length]
    padded_key = key.new_zeros(number * block, key.shape[1])
    padded_value = value.new_zeros(number * block, value.shape[1])
    padded_key[:length] = key[kept]
    padded_value[:length] = value[kept]
    starts = torch.arange(number, device=key.device) * block
    count = (length - starts).clamp(0, block).float()
    divisor = count.clamp(min=1)[:, None]
    values = padded_value.view(number, block, -1)
    return _KeyBlocks(
        key=padded_key,
        value=values,
        key_mean=padded_key.view(number, block, -1).sum(1) / divisor,
        value_mean=values.sum(1) / divisor,
        tokens=count,
        absent=torch.arange(number * block, device=key.device) >= length,
    )


def _tile_statistics(
    query: Tensor, blocks: _KeyBlocks, scale: float, *, pooled: bool, paper: bool
) -> BlockStatistics:
    """Statistics of one query block [rows, D]: vectors over key blocks and scalars."""
    rows, (number, width, _) = query.shape[0], blocks.value.shape
    query = query * scale
    weights = (query @ blocks.key.T).masked_fill_(blocks.absent, -torch.inf)
    row_maximum = weights.amax(dim=1, keepdim=True)
    weights.sub_(row_maximum).exp_()
    row_sum = weights.sum(dim=1, keepdim=True)
    probability = weights.div_(row_sum).view(rows, number, width)
    log_sum = row_sum.log_().add_(row_maximum)
    block_output = torch.bmm(probability.transpose(0, 1), blocks.value)
    output = block_output.sum(dim=0)
    block_mass = probability.sum(dim=2)
    error = _left_out_error(query, block_output, output, block_mass, log_sum, blocks, pooled)
    empty_share, peak_ratio = torch.zeros_like(blocks.tokens), torch.zeros_like(blocks.tokens)
    if paper:
        entries = (blocks.tokens * rows).clamp(min=1)
        exists = ~blocks.absent.view(number, width)
        empty_share = ((probability < PAPER_EPSILON) & exists).sum(dim=(0, 2)) / entries
        peak_ratio = probability.amax(dim=(0, 2)) * entries / block_mass.sum(dim=0).clamp(1e-30)
    return BlockStatistics(
        block_mass.sum(dim=0), error, output.square().sum(), empty_share, peak_ratio
    )


def _left_out_error(
    query: Tensor,
    block_output: Tensor,
    output: Tensor,
    block_mass: Tensor,
    log_sum: Tensor,
    blocks: _KeyBlocks,
    pooled: bool,
) -> Tensor:
    """[NK]: sum over rows of |sum_{j in b} P_ij (v_j - o_i)|^2; pooled, of what is left of it
    after p_ib (mean v - o_i), the summary token's share. query: [rows, D], times the scale.
    Overwrites block_output [NK, rows, D].
    """
    excess = block_mass
    if pooled:
        summary_logits = query @ blocks.key_mean.T + blocks.tokens.log()
        summary = (summary_logits - log_sum).exp()
        excess = block_mass - summary
        block_output.addcmul_(summary.T[:, :, None], blocks.value_mean[:, None, :], value=-1)
    block_output.addcmul_(excess.T[:, :, None], output[None], value=-1)
    error: Tensor = torch.linalg.vector_norm(block_output, dim=(1, 2)).square()
    return error
