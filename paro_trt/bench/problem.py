"""The tensors of one op case on a device, and what attention makes of them on a sample of rows."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import ArgumentError
from ..op.mask import pack_block_mask, tile_order
from ..op.spec import AttentionInputs, block_count
from .case import OpCase

SAMPLED_BLOCKS = 5
"""Query blocks whose rows are verified, from the first to the last."""

ROW_SPREAD = 0.3
"""Standard deviation of the logarithm of the blocks that heads keep, and again of their rows."""

CACHES_ROTATED = 4
"""The sets of inputs and outputs together are at least this many times the L2 cache."""


@dataclass(frozen=True)
class Problem:
    """Random inputs of a case with batch 1. Baselines that do not reorder get the tokens as is.

    sets: query, key and value [1,S,H,D] each, zero-mean: where outputs average out, an error in P
    or in the mask is as large as they are. token_order: int32 [R,S] on the CPU; heads use its rows
    in turn, and row 0 leaves the tokens in place. ranks: int16 [H,NQ,NK], the order in which the
    blocks of a row enter the mask; the diagonal comes first. row_shares: float32 [H,NQ], how many
    blocks a row keeps, of the mean; 1 on average.
    """

    case: OpCase
    device: torch.device
    sets: tuple[tuple[Tensor, Tensor, Tensor], ...]
    token_order: Tensor
    ranks: Tensor
    row_shares: Tensor

    @property
    def head_order(self) -> list[int]:
        """Row of `token_order` that each head uses."""
        return [head % len(self.token_order) for head in range(self.case.heads)]

    def as_dtype(self, dtype: torch.dtype) -> Problem:
        """The same numbers, rounded to another type."""
        if dtype == self.case.dtype:
            return self
        sets = tuple((q.to(dtype), k.to(dtype), v.to(dtype)) for q, k, v in self.sets)
        return replace(self, case=replace(self.case, dtype=dtype), sets=sets)

    def kept_blocks(self, density: float) -> Tensor:
        """Key blocks of each mask row, int16 [H,NQ]: unequally many below density 1, as in
        calibrated masks."""
        if not 0 < density <= 1:
            raise ArgumentError("density", expected="a share in (0, 1]", actual=str(density))
        blocks = self.ranks.shape[2]
        shares = torch.ones_like(self.row_shares) if density == 1 else self.row_shares
        return (density * blocks * shares).round().clamp(1, blocks).to(self.ranks.dtype)

    def reached_density(self, density: float) -> float:
        """Share of blocks that `mask` has."""
        return float(self.kept_blocks(density).double().mean()) / self.ranks.shape[2]

    def mask(self, density: float) -> Tensor:
        """bool [H,NQ,NK]: the diagonal and random blocks."""
        return self.ranks < self.kept_blocks(density)[..., None]

    def inputs(self, mask: Tensor, *, rotated: bool = False) -> list[AttentionInputs]:
        """The op's inputs with this mask, one for each set; they share the plan's tensors.

        rotated: with the signs of a rotation for each head, which smoothing takes.
        """
        words = pack_block_mask(mask.cpu().numpy())[None]
        plan = {
            "token_order": self.token_order,
            "head_order": torch.tensor(self.head_order, dtype=torch.int32),
            "block_mask": torch.from_numpy(words),
            "tile_order": torch.from_numpy(tile_order(words)),
            "mask_bin": torch.zeros(1, dtype=torch.int32),
            "key_length": torch.full((1,), self.case.tokens, dtype=torch.int32),
        }
        if rotated:
            odd = torch.arange(self.case.heads * self.case.head_dim) % 3 % 2
            signs = (1 - 2 * odd).reshape(self.case.heads, self.case.head_dim)
            plan["rotation"] = signs.int()
        placed = {name: tensor.to(self.device) for name, tensor in plan.items()}
        return [
            AttentionInputs(query, key, value, channel_affine=_affine(key, value), **placed)
            for query, key, value in self.sets
        ]

    def sampled_rows(self) -> Tensor:
        """Positions within the sequence: the rows of some query blocks."""
        last, block_q = self.ranks.shape[1] - 1, self.case.config.block_q
        chosen = {round(i * last / (SAMPLED_BLOCKS - 1)) for i in range(SAMPLED_BLOCKS)}
        rows = [
            torch.arange(block * block_q, min((block + 1) * block_q, self.case.tokens))
            for block in sorted(chosen)
        ]
        return torch.cat(rows).to(self.device)

    def expected(self, density: float | None, *, reordered: bool) -> Tensor:
        """float64 [rows,H,D] for set 0 and `sampled_rows`; density None for no mask.

        Blocks that a mask drops are summary tokens where the case pools them.
        """
        rows, config = self.sampled_rows(), self.case.config
        mask = None if density is None else self.mask(density)
        order = self.token_order.long().to(self.device)
        outputs = []
        for head, order_row in enumerate(self.head_order):
            tokens = order[order_row if reordered else 0]
            query, key, value = (x[0, tokens, head].double() for x in self.sets[0])
            logits = query[rows] @ key.T / math.sqrt(self.case.head_dim)
            if mask is not None:
                blocks = mask[head, rows // config.block_q]
                listed = blocks.repeat_interleave(config.block_k, dim=1)[:, : self.case.tokens]
                logits = logits.masked_fill(~listed, -math.inf)
                if config.pool_dropped:
                    counts, (keys, values) = _block_means(config.block_k, key, value)
                    pooled = query[rows] @ keys.T / math.sqrt(self.case.head_dim) + counts.log()
                    logits = torch.cat([logits, pooled.masked_fill(blocks, -math.inf)], dim=1)
                    value = torch.cat([value, values])
            outputs.append(logits.softmax(dim=1) @ value)
        return torch.stack(outputs, dim=1)

    def sample(self, output: Tensor, *, reordered: bool) -> Tensor:
        """[rows,H,D] of an output [1,S,H,D], at `sampled_rows` of each head's sequence."""
        rows = self.sampled_rows()
        order = self.token_order.long().to(self.device)
        heads = [
            output[0, order[row if reordered else 0][rows], head]
            for head, row in enumerate(self.head_order)
        ]
        return torch.stack(heads, dim=1)


def make_problem(
    case: OpCase,
    device: torch.device,
    *,
    token_order: Tensor | None = None,
    cache_bytes: int = 0,
    seed: int = 0,
) -> Problem:
    """Fresh inputs of a case with batch 1 and as many key heads as query heads.

    Args:
        case: its density, lengths and bins are not used.
        device: of all tensors.
        token_order: int32 [R,S] on the CPU; None leaves the tokens of all heads in place.
        cache_bytes: there are enough sets to rotate past a cache of this size.
        seed: of the inputs and the masks.
    """
    generator = torch.Generator(device).manual_seed(seed)

    def normal() -> Tensor:
        size = (1, case.tokens, case.heads, case.head_dim)
        drawn = torch.randn(size, generator=generator, device=device, dtype=torch.float32)
        return drawn.to(case.dtype)

    bytes_a_set = 4 * case.tokens * case.heads * case.head_dim * case.dtype.itemsize
    count = max(1, math.ceil(CACHES_ROTATED * cache_bytes / bytes_a_set))
    sets = tuple((normal(), normal(), normal()) for _ in range(count))
    query_blocks = block_count(case.tokens, case.config.block_q)
    key_blocks = block_count(case.tokens, case.config.block_k)
    draws = torch.rand((case.heads, query_blocks, key_blocks), generator=generator, device=device)
    block = torch.arange(query_blocks, device=device)
    draws[:, block, block * key_blocks // query_blocks] = -1.0
    ranks = draws.argsort(dim=2).argsort(dim=2).to(torch.int16)
    if token_order is None:
        token_order = torch.arange(case.tokens, dtype=torch.int32)[None]
    shares = torch.ones(case.heads, query_blocks, device=device)
    for size in ((case.heads, 1), (case.heads, query_blocks)):
        drawn = torch.randn(size, generator=generator, device=device)
        shares *= torch.exp(ROW_SPREAD * drawn)
    return Problem(case, device, sets, token_order, ranks, shares / shares.mean())


def _block_means(block_k: int, *tensors: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Tokens of each key block [NK], and the means over them of tensors [S,D]: [NK,D] each."""
    blocks = [tensor.split(block_k) for tensor in tensors]
    counts = [len(block) for block in blocks[0]]
    means = [torch.stack([block.mean(dim=0) for block in of_one]) for of_one in blocks]
    return torch.tensor(counts, device=means[0].device, dtype=means[0].dtype), means


def _affine(key: Tensor, value: Tensor) -> Tensor:
    """float32 [4,H,D]: means as calibration takes them, no scales."""
    means = [x[0].float().mean(dim=0) for x in (key, value)]
    ones = torch.ones_like(means[0])
    return torch.stack([means[0], ones, means[1], ones]).contiguous()
