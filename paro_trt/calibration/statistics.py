"""Block statistics of one attention head, streamed over query tiles; never S x S in memory.

Notation: rows i of a query block, tokens j of a key block b, both in a candidate order;
P = softmax(scale q k^T), o_i = sum_j P_ij v_j, m_ib = sum_{j in b} P_ij. Leaving b out of the
softmax moves row i by sum_{j in b} P_ij (v_j - o_i), to first order in m_ib.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..op.spec import FINE_SUMMARIES, block_count
from .inputs import HeadInputs

PAPER_EPSILON = 1e-3
"""Below it an entry of P counts as empty in the paper's metric; P as is, its rows sum to one."""

CPU_MEMORY = 1 << 28
"""Bytes that statistics take on a CPU unless told otherwise: more does not make them faster."""


class Tiling(NamedTuple):
    """Tokens in a query block and in a key block."""

    block_q: int
    block_k: int


class BlockStatistics(NamedTuple):
    """Sums over the rows of each (query block, key block); FP32, on the inputs' device.

    mass: [n, NK], sum_i m_ib.
    error: [n, NK], squared output error that leaving the block out costs: with pooling, the
        part that its summary token does not recover.
    fine_error: [n, NK], the part that four summary tokens do not recover; zeros unless asked for.
    energy: [n], sum_i |o_i|^2.
    empty_share: [n, NK], share of entries of P below `PAPER_EPSILON`.
    peak_ratio: [n, NK], largest entry of P over the mean entry.
    """

    mass: Tensor
    error: Tensor
    fine_error: Tensor
    energy: Tensor
    empty_share: Tensor
    peak_ratio: Tensor


class RunMeans(NamedTuple):
    """Summary tokens of N blocks, r for each: means of runs of consecutive tokens.

    key, value: [N, r, D], 0 for a run without tokens; tokens: [N, r], how many exist.
    """

    key: Tensor
    value: Tensor
    tokens: Tensor


class KeyBlocks(NamedTuple):
    """Keys and values of one head in a candidate order, padded with zeros to whole blocks.

    key: [NK*block_k, D]; value: [NK, block_k, D]; absent: bool [NK*block_k]; summaries: what
    represents a block that is left out, by their number in a block.
    """

    key: Tensor
    value: Tensor
    absent: Tensor
    summaries: dict[int, RunMeans]


def block_statistics(
    inputs: HeadInputs,
    order: Tensor,
    tiling: Tiling,
    *,
    pooled: bool,
    fine: bool = False,
    query_blocks: Sequence[int] | None = None,
    rows_per_block: int | None = None,
    paper: bool = False,
    memory: int | None = None,
) -> BlockStatistics:
    """Statistics of every (query block, key block) of one head under one order.

    Args:
        inputs: the head's query, key and value; computed in FP32.
        order: int64 [S], the candidate permutation, on the inputs' device.
        tiling: block sizes.
        pooled: a summary token represents each key block that is left out.
        fine: fill fine_error, of four summary tokens each.
        query_blocks: the n query blocks to look at, all with tokens that exist; None means every
            such block.
        rows_per_block: look at no more rows of each, spread evenly; None means all. The sums
            are then over these rows.
        paper: fill empty_share and peak_ratio (zeros otherwise).
        memory: bytes to take in addition to the inputs and an FP32 copy of the head's keys and
            values: as many query blocks are done at once as fit, and one in any case. None: half
            of what is free on a GPU, `CPU_MEMORY` elsewhere.
    """
    length = inputs.length
    numbers = [1] * pooled + [FINE_SUMMARIES] * fine
    blocks = _key_blocks(
        inputs.key.float(), inputs.value.float(), order, tiling.block_k, length, numbers
    )
    total = block_count(length, tiling.block_q)
    chosen = list(range(total) if query_blocks is None else query_blocks)
    rows = [order[_rows(index, tiling.block_q, length, rows_per_block)] for index in chosen]
    tiles = []
    for group in _groups(rows, tile_bytes(blocks, len(rows[0])), memory, order.device):
        query = inputs.query[torch.stack(group)].float()
        tiles.append(_tile_statistics(query, blocks, inputs.scale, paper=paper))
    return BlockStatistics(*(torch.cat(parts) for parts in zip(*tiles, strict=True)))


def tile_bytes(blocks: KeyBlocks, rows: int) -> int:
    """Bytes that one query block of so many rows takes: FP32 weights and a copy of them, and the
    output of every key block twice, three times where fine errors are asked for."""
    number, _, channels = blocks.value.shape
    copies = 3 if FINE_SUMMARIES in blocks.summaries else 2
    return 4 * rows * (2 * len(blocks.key) + copies * number * channels)


def _groups(
    rows: list[Tensor], bytes_each: int, memory: int | None, device: torch.device
) -> Iterator[list[Tensor]]:
    """Neighbouring query blocks of equal height, as many as fit into the memory."""
    if memory is None:
        memory = CPU_MEMORY
        if device.type == "cuda":
            memory = torch.cuda.mem_get_info(device)[0] // 2
    most = max(1, memory // bytes_each)
    group: list[Tensor] = []
    for row in rows:
        if group and (len(group) == most or len(row) != len(group[0])):
            yield group
            group = []
        group.append(row)
    yield group


def sampled_query_blocks(total: int, limit: int) -> tuple[int, ...]:
    """At most `limit` of `total` query blocks, spread evenly."""
    count = min(total, limit)
    return tuple((2 * index + 1) * total // (2 * count) for index in range(count))


def _rows(index: int, block_q: int, length: int, limit: int | None) -> slice:
    """Positions of a query block, every second, third, ... so that no more than `limit` remain."""
    start, end = index * block_q, min((index + 1) * block_q, length)
    return slice(start, end, 1 if limit is None else -(-(end - start) // limit))


def _key_blocks(
    key: Tensor,
    value: Tensor,
    order: Tensor,
    block: int,
    length: int,
    summaries: Sequence[int],
) -> KeyBlocks:
    tokens = order.numel()
    number = block_count(tokens, block)
    kept = order[:length]
    padded_key = key.new_zeros(number * block, key.shape[1])
    padded_value = value.new_zeros(number * block, value.shape[1])
    padded_key[:length] = key[kept]
    padded_value[:length] = value[kept]
    return KeyBlocks(
        key=padded_key,
        value=padded_value.view(number, block, -1),
        absent=torch.arange(number * block, device=key.device) >= length,
        summaries={
            runs: _run_means(padded_key, padded_value, number, runs, length) for runs in summaries
        },
    )


def _run_means(key: Tensor, value: Tensor, blocks: int, runs: int, length: int) -> RunMeans:
    """Means of `runs` runs of each block; key, value: [blocks * block_k, D]."""
    run = len(key) // (blocks * runs)
    starts = torch.arange(blocks * runs, device=key.device) * run
    count = (length - starts).clamp(0, run).float().view(blocks, runs)
    divisor = count.clamp(min=1)[:, :, None]
    return RunMeans(
        key.view(blocks, runs, run, -1).sum(2) / divisor,
        value.view(blocks, runs, run, -1).sum(2) / divisor,
        count,
    )


def _tile_statistics(
    query: Tensor, blocks: KeyBlocks, scale: float, *, paper: bool
) -> BlockStatistics:
    """Statistics of n query blocks [n, rows, D]."""
    tiles, rows, channels = query.shape
    number, width, _ = blocks.value.shape
    query = query.reshape(-1, channels) * scale
    weights = (query @ blocks.key.T).masked_fill_(blocks.absent, -torch.inf)
    row_maximum = weights.amax(dim=1, keepdim=True)
    weights.sub_(row_maximum).exp_()
    row_sum = weights.sum(dim=1, keepdim=True)
    probability = weights.div_(row_sum).view(-1, number, width)
    log_sum = row_sum.log_().add_(row_maximum)
    block_output = torch.bmm(probability.transpose(0, 1), blocks.value)
    output = block_output.sum(dim=0)
    row_mass = probability.sum(dim=2)
    mass = row_mass.view(tiles, rows, number).sum(dim=1)
    rows_of = _Rows(query, output, row_mass, log_sum)

    def left_out(summaries: int, of_blocks: Tensor) -> Tensor:
        error = _left_out_error(rows_of, of_blocks, blocks.summaries.get(summaries))
        return error.view(number, tiles, rows).sum(dim=2).T

    fine_error = torch.zeros_like(mass)
    if FINE_SUMMARIES in blocks.summaries:
        fine_error = left_out(FINE_SUMMARIES, block_output.clone())
    error = left_out(1, block_output)
    empty_share, peak_ratio = torch.zeros_like(mass), torch.zeros_like(mass)
    if paper:
        exists = ~blocks.absent.view(number, width)
        entries = (exists.sum(dim=1) * rows).clamp(min=1)
        of_tiles = probability.view(tiles, rows, number, width)
        empty_share = ((of_tiles < PAPER_EPSILON) & exists).sum(dim=(1, 3)) / entries
        peak_ratio = of_tiles.amax(dim=(1, 3)) * entries / mass.clamp(1e-30)
    return BlockStatistics(
        mass,
        error,
        fine_error,
        output.view(tiles, rows, channels).square().sum(dim=(1, 2)),
        empty_share,
        peak_ratio,
    )


class _Rows(NamedTuple):
    """Query rows, all tiles' after each other.

    query: [rows, D], times the scale; output: [rows, D]; mass: [rows, NK]; log_sum: [rows, 1],
    the logarithm of the softmax's sum.
    """

    query: Tensor
    output: Tensor
    mass: Tensor
    log_sum: Tensor


def _left_out_error(rows: _Rows, block_output: Tensor, summaries: RunMeans | None) -> Tensor:
    """[NK, rows]: |sum_{j in b} P_ij (v_j - o_i)|^2; with summary tokens, of what is left of it
    after sum_r p_ir (mean v_r - o_i), their share.

    block_output: [NK, rows, D], sum_{j in b} P_ij v_j; it is overwritten.
    """
    excess = rows.mass
    if summaries is not None:
        blocks, runs, channels = summaries.key.shape
        logits = rows.query @ summaries.key.view(-1, channels).T + summaries.tokens.view(-1).log()
        weight = (logits - rows.log_sum).exp().view(-1, blocks, runs)
        excess = excess - weight.sum(dim=2)
        block_output.baddbmm_(weight.transpose(0, 1), summaries.value, alpha=-1)
    block_output.addcmul_(excess.T[:, :, None], rows.output[None], value=-1)
    error: Tensor = torch.linalg.vector_norm(block_output, dim=2).square()
    return error
