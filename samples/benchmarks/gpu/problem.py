"""Inputs of one shape on a device, and what attention makes of them on a sample of rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from paro_trt.op.mask import pack_block_mask, tile_order
from paro_trt.op.spec import AttentionInputs, block_count

from .shapes import BLOCK_Q, Shape

SAMPLED_BLOCKS = 3
CACHES_ROTATED = 4
"""The sets of inputs and outputs together are at least this many times the L2 cache."""


@dataclass
class Problem:
    """Random inputs; contenders that know no reorder get the tokens as they are.

    sets: query, key and value [1,S,H,D] each, zero-mean: where outputs average out, an error in P
    or in the mask is as large as they are.
    """

    shape: Shape
    block_k: int
    device: torch.device
    dtype: torch.dtype
    sets: list[tuple[Tensor, Tensor, Tensor]]
    ranks: Tensor
    """int16 [H, NQ, NK]: how late a key block is kept, the diagonal's first."""

    @property
    def head_order(self) -> list[int]:
        """Every other head has its tokens reordered."""
        return [head % 2 for head in range(self.shape.heads)]

    @cached_property
    def token_order(self) -> Tensor:
        """int32 [2, S] on the CPU."""
        return self.shape.orders()

    def mask(self, density: float) -> Tensor:
        """bool [H, NQ, NK]: the diagonal and random blocks, equally many in each row."""
        kept = max(1, round(density * self.ranks.shape[2]))
        return self.ranks < kept

    def reached_density(self, density: float) -> float:
        """Share of blocks that `mask` has."""
        key_blocks = self.ranks.shape[2]
        return max(1, round(density * key_blocks)) / key_blocks

    def inputs(self, density: float) -> list[AttentionInputs]:
        """The op's inputs, one for each set; they share the plan's tensors."""
        words = pack_block_mask(self.mask(density).cpu().numpy())[None]
        plan = {
            "token_order": self.token_order,
            "head_order": torch.tensor(self.head_order, dtype=torch.int32),
            "block_mask": torch.from_numpy(words),
            "tile_order": torch.from_numpy(tile_order(words)),
            "mask_bin": torch.zeros(1, dtype=torch.int32),
            "key_length": torch.full((1,), self.shape.tokens, dtype=torch.int32),
        }
        placed = {name: tensor.to(self.device) for name, tensor in plan.items()}
        return [
            AttentionInputs(query, key, value, channel_affine=_affine(key, value), **placed)
            for query, key, value in self.sets
        ]

    def sampled_rows(self) -> Tensor:
        """Positions within the sequence: some query blocks, from the first to the last."""
        last = self.ranks.shape[1] - 1
        chosen = {round(i * last / (SAMPLED_BLOCKS - 1)) for i in range(SAMPLED_BLOCKS)}
        rows = [
            torch.arange(block * BLOCK_Q, min((block + 1) * BLOCK_Q, self.shape.tokens))
            for block in sorted(chosen)
        ]
        return torch.cat(rows).to(self.device)

    def expected(self, density: float | None, *, reordered: bool) -> Tensor:
        """float64 [rows, H, D] for set 0 and `sampled_rows`; density None for no mask."""
        rows = self.sampled_rows()
        mask = None if density is None else self.mask(density)
        order = self.token_order.long().to(self.device)
        outputs = []
        for head, order_row in enumerate(self.head_order):
            tokens = order[order_row if reordered else 0]
            query, key, value = (x[0, tokens, head].double() for x in self.sets[0])
            logits = query[rows] @ key.T / math.sqrt(self.shape.head_dim)
            if mask is not None:
                listed = mask[head, rows // BLOCK_Q].repeat_interleave(self.block_k, dim=1)
                logits = logits.masked_fill(~listed[:, : self.shape.tokens], -math.inf)
            outputs.append(logits.softmax(dim=1) @ value)
        return torch.stack(outputs, dim=1)

    def sample(self, output: Tensor, *, reordered: bool) -> Tensor:
        """[rows, H, D] of an output [1,S,H,D], at `sampled_rows` of each head's sequence."""
        rows = self.sampled_rows()
        order = self.token_order.long().to(self.device)
        heads = [
            output[0, order[row if reordered else 0][rows], head]
            for head, row in enumerate(self.head_order)
        ]
        return torch.stack(heads, dim=1)


def make_problem(
    shape: Shape,
    block_k: int,
    device: torch.device,
    dtype: torch.dtype,
    cache_bytes: int,
    seed: int,
) -> Problem:
    """Fresh inputs, as many sets as it takes to rotate past a cache of so many bytes."""
    generator = torch.Generator(device).manual_seed(seed)

    def normal() -> Tensor:
        size = (1, shape.tokens, shape.heads, shape.head_dim)
        return torch.randn(size, generator=generator, device=device, dtype=torch.float32).to(dtype)

    bytes_a_set = 4 * shape.tokens * shape.heads * shape.head_dim * dtype.itemsize
    count = max(1, math.ceil(CACHES_ROTATED * cache_bytes / bytes_a_set))
    sets = [(normal(), normal(), normal()) for _ in range(count)]
    query_blocks = block_count(shape.tokens, BLOCK_Q)
    key_blocks = block_count(shape.tokens, block_k)
    draws = torch.rand((shape.heads, query_blocks, key_blocks), generator=generator, device=device)
    block = torch.arange(query_blocks, device=device)
    draws[:, block, block * key_blocks // query_blocks] = -1.0
    ranks = draws.argsort(dim=2).argsort(dim=2).to(torch.int16)
    return Problem(shape, block_k, device, dtype, sets, ranks)


def _affine(key: Tensor, value: Tensor) -> Tensor:
    """float32 [4,H,D]: means as calibration takes them, no scales."""
    means = [x[0].float().mean(dim=0) for x in (key, value)]
    ones = torch.ones_like(means[0])
    return torch.stack([means[0], ones, means[1], ones]).contiguous()
