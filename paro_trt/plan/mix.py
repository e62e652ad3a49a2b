"""What a plan attends: its mix of exact, fine and coarse blocks, and the keys that it costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..op.spec import COARSE_KEYS, CORRECTION_ROWS, FINE_SUMMARIES, ROUTING_RUN, block_count

if TYPE_CHECKING:
    from .layer import LayerPlan
    from .plan import ParoPlan


class BlockCounts(NamedTuple):
    """Numbers of key blocks, summed over query blocks: exact and fine as the plan has them, coarse
    the rest (0 where dropped blocks vanish), dynamic those that are chosen at run time."""

    exact: int
    fine: int = 0
    coarse: int = 0
    dynamic: int = 0

    def keys(self, block_k: int) -> int:
        """The keys that they cost.

        A block that is chosen at run time costs `block_k` keys in addition to its summaries.
        """
        whole = self.exact + self.dynamic
        return whole * block_k + self.fine * FINE_SUMMARIES + self.coarse * COARSE_KEYS


class KeysMet(NamedTuple):
    """Keys that query blocks meet, a key counted once for the rows of a block; other work counts as
    the keys that take as much.

    blocks: tokens and summaries of key blocks; correction: what mean queries attend; routing: the
    estimate that run-time blocks are chosen by.
    """

    blocks: int
    correction: float = 0.0
    routing: float = 0.0

    @property
    def total(self) -> float:
        """All of them."""
        return sum(self)


@dataclass(frozen=True)
class KeyCost:
    """What a head costs: the one place that counts it.

    Args:
        tokens: S.
        block_q: rows in a query block.
        block_k: tokens in a key block.
    """

    tokens: int
    block_q: int
    block_k: int

    def correction(self, keys: float, query_blocks: int) -> float:
        """Keys that correction adds to query blocks that meet `keys` in all.

        The mean query of 128 rows attends every token, and what each of its query blocks attends.
        """
        return query_blocks * self.tokens / CORRECTION_ROWS + keys / self.block_q

    def routing(self, query_blocks: int) -> float:
        """Keys that choosing blocks at run time adds to query blocks.

        The mean of each 16 rows meets the means of 16 tokens, and of the key blocks.
        """
        means = self.tokens / ROUTING_RUN + block_count(self.tokens, self.block_k)
        return query_blocks * means / ROUTING_RUN

    def met(self, counts: BlockCounts, query_blocks: int, *, corrected: bool = False) -> KeysMet:
        """The keys that query blocks of a head meet in one bin."""
        keys = counts.keys(self.block_k)
        return KeysMet(
            keys,
            self.correction(keys, query_blocks) if corrected else 0.0,
            self.routing(query_blocks) if counts.dynamic else 0.0,
        )

    def met_by_heads(
        self,
        exact: NDArray[np.integer],
        fine: NDArray[np.integer],
        dynamic: NDArray[np.integer] | None,
        corrected: NDArray[np.integer] | None,
        *,
        pooled: bool,
    ) -> KeysMet:
        """The keys that a layer's query blocks meet, over its bins and heads.

        Args:
            exact: [T, H], numbers of blocks, over all query blocks.
            fine: the same.
            dynamic: [T, H], blocks that each query block chooses; None: none.
            corrected: [H], flags; None: none.
            pooled: the other blocks are coarse; else they vanish.
        """
        query_blocks = block_count(self.tokens, self.block_q)
        blocks = query_blocks * block_count(self.tokens, self.block_k)
        found = []
        for mask_bin, head in np.ndindex(exact.shape):
            of_head = int(exact[mask_bin, head]), int(fine[mask_bin, head])
            counts = BlockCounts(
                *of_head,
                blocks - sum(of_head) if pooled else 0,
                0 if dynamic is None else int(dynamic[mask_bin, head]) * query_blocks,
            )
            flag = corrected is not None and bool(corrected[head])
            found.append(self.met(counts, query_blocks, corrected=flag))
        return sum_keys(found)


def sum_keys(parts: Sequence[KeysMet]) -> KeysMet:
    """Each kind of keys, summed."""
    blocks, correction, routing = zip(*parts, strict=True)
    return KeysMet(sum(blocks), sum(correction), sum(routing))


class PlanMix(NamedTuple):
    """Shares of all (query block, key block) pairs of some layers, over their bins and heads.

    exact, fine, coarse: as the plan has them; where dropped blocks vanish, coarse is 0. dynamic:
    chosen at run time, out of fine and coarse. cost: keys that a query meets, as a share of S, of
    which correction and routing take their parts (`KeyCost`). dynamic_blocks: the least and the
    most that a query block chooses. corrected_heads, heads: numbers.
    """

    exact: float
    fine: float
    coarse: float
    dynamic: float
    cost: float
    correction: float
    routing: float
    dynamic_blocks: tuple[int, int]
    corrected_heads: int
    heads: int


def plan_mix(plan: ParoPlan, layers: Sequence[LayerPlan] | None = None) -> PlanMix:
    """The mix of a plan, or of some of its layers."""
    of = plan.layers if layers is None else layers
    heads = sum(len(layer.heads) for layer in of)
    rows = heads * plan.bins * plan.query_blocks
    blocks = rows * plan.key_blocks
    exact = sum(int(layer.attended_blocks().sum()) for layer in of)
    fine = sum(int(layer.fine_blocks().sum()) for layer in of)
    chosen = [
        [0] if layer.dynamic_blocks is None else layer.dynamic_blocks.ravel().tolist()
        for layer in of
    ]
    dynamic = sum(map(sum, chosen)) * plan.query_blocks
    coarse = blocks - exact - fine if plan.pool_dropped else 0
    cost = KeyCost(plan.tokens, plan.block_q, plan.block_k)
    met = sum_keys(
        [
            cost.met_by_heads(
                layer.attended_blocks(),
                layer.fine_blocks(),
                layer.dynamic_blocks,
                layer.corrected_heads,
                pooled=plan.pool_dropped,
            )
            for layer in of
        ]
    )
    queries = rows * plan.tokens
    return PlanMix(
        exact / blocks,
        fine / blocks,
        coarse / blocks,
        dynamic / blocks,
        met.total / queries,
        met.correction / queries,
        met.routing / queries,
        (min(map(min, chosen)), max(map(max, chosen))),
        sum(int(layer.corrected_heads.sum()) for layer in of if layer.corrected_heads is not None),
        heads,
    )
