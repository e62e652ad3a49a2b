"""The tensors of one op case on a device, and what attention makes of them on a sample of rows."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import ArgumentError
from ..op.mask import pack_block_mask, tile_order
from ..op.spec import (
    CORRECTION_ROWS,
    FINE_SUMMARIES,
    AttentionConfig,
    AttentionInputs,
    block_count,
)
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

    def fine_mask(self, density: float) -> Tensor:
        """bool [H,NQ,NK]: as many blocks again as `mask` has, where there are as many."""
        kept = self.kept_blocks(density)[..., None]
        return (self.ranks >= kept) & (self.ranks < 2 * kept)

    @property
    def corrected(self) -> list[bool]:
        """Whether a head's mean is corrected: every other one's, where the case corrects any."""
        return [
            self.case.config.mean_correction and head % 2 == 1 for head in range(self.case.heads)
        ]

    def inputs(
        self, mask: Tensor, config: AttentionConfig, fine: Tensor | None = None
    ) -> list[AttentionInputs]:
        """The op's inputs with this mask, one for each set; they share the plan's tensors.

        Args:
            mask: bool [H,NQ,NK].
            config: of the call; where it smooths, every head is rotated.
            fine: bool [H,NQ,NK]; where the config has fine summaries and this is None, no block is
                fine.
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
        if config.fine_summaries:
            planes = torch.zeros_like(mask) if fine is None else fine
            plan["fine_mask"] = torch.from_numpy(pack_block_mask(planes.cpu().numpy())[None])
        if config.mean_correction:
            plan["corrected_heads"] = torch.tensor(self.corrected, dtype=torch.int32)
        if config.smoothing:
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

        Blocks that a mask drops are summary tokens where the case pools them, and `fine_mask` and
        `corrected` hold where the case has fine summaries and corrects means.
        """
        rows, block_q = self.sampled_rows(), self.case.config.block_q
        order = self.token_order.long().to(self.device)
        outputs = []
        for head, order_row in enumerate(self.head_order):
            tokens = order[order_row if reordered else 0]
            query, key, value = (x[0, tokens, head].double() for x in self.sets[0])
            if density is None:
                outputs.append(_attended(query[rows], [Keys(key, value)]))
                continue
            sources = _sources(
                key, value, self.mask(density)[head], self.fine_mask(density)[head],
                self.case.config,
            )  # fmt: skip
            output = _attended(query[rows], [each.of_rows(rows // block_q) for each in sources])
            if self.corrected[head]:
                runs = query.split(CORRECTION_ROWS)
                means = torch.stack([x.mean(dim=0) for x in runs])[rows // CORRECTION_ROWS]
                sparse = _attended(means, [each.of_rows(rows // block_q) for each in sources])
                output = output + _attended(means, [Keys(key, value)]) - sparse
            outputs.append(output)
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


class Keys(NamedTuple):
    """Keys and values [N,D] that rows meet; `bias` is added to the logits, [N], and what `listed`,
    bool [rows,N], does not have is left out."""

    key: Tensor
    value: Tensor
    bias: Tensor | None = None
    listed: Tensor | None = None

    def of_rows(self, blocks: Tensor) -> Keys:
        """For rows in these query blocks, where `listed` is by query block."""
        return self if self.listed is None else self._replace(listed=self.listed[blocks])


def _sources(
    key: Tensor, value: Tensor, mask: Tensor, fine: Tensor, config: AttentionConfig
) -> list[Keys]:
    """What the query blocks of a head attend: tokens of exact blocks, fine and coarse summaries.

    Args:
        key, value: [S,D] in the head's order.
        mask, fine: bool [NQ,NK].
        config: which summaries there are.
    """
    block_k, tokens = config.block_k, len(key)
    sources = [Keys(key, value, listed=mask.repeat_interleave(block_k, dim=1)[:, :tokens])]
    if not config.pool_dropped:
        return sources
    coarse = ~mask
    if config.fine_summaries:
        coarse = coarse & ~fine
        run = block_k // FINE_SUMMARIES
        summaries = _means(run, key, value)
        listed = fine.repeat_interleave(FINE_SUMMARIES, dim=1)[:, : len(summaries.key)]
        sources.append(summaries._replace(listed=listed))
    return [*sources, _means(block_k, key, value)._replace(listed=coarse)]


def _means(run: int, key: Tensor, value: Tensor) -> Keys:
    """Means over runs of consecutive tokens, whose logits have the logarithm of their number."""
    keys, values = (torch.stack([x.mean(dim=0) for x in of.split(run)]) for of in (key, value))
    counts = torch.tensor([len(x) for x in key.split(run)], device=key.device, dtype=key.dtype)
    return Keys(keys, values, bias=counts.log())


def _attended(query: Tensor, sources: list[Keys]) -> Tensor:
    """[rows,D] of attention over all sources, one softmax."""
    logits = []
    for each in sources:
        products = query @ each.key.T / math.sqrt(query.shape[1])
        if each.bias is not None:
            products = products + each.bias
        if each.listed is not None:
            products = products.masked_fill(~each.listed, -math.inf)
        logits.append(products)
    weights = torch.cat(logits, dim=1).softmax(dim=1)
    return weights @ torch.cat([each.value for each in sources])


def _affine(key: Tensor, value: Tensor) -> Tensor:
    """float32 [4,H,D]: means as calibration takes them, no scales."""
    means = [x[0].float().mean(dim=0) for x in (key, value)]
    ones = torch.ones_like(means[0])
    return torch.stack([means[0], ones, means[1], ones]).contiguous()
