"""What a plan attends: its mix of exact, fine and coarse blocks, and the keys that it costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..op.spec import COARSE_KEYS, FINE_SUMMARIES

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


class PlanMix(NamedTuple):
    """Shares of all (query block, key block) pairs of some layers, over their bins and heads.

    exact, fine, coarse: as the plan has them; where dropped blocks vanish, coarse is 0. dynamic:
    chosen at run time, out of fine and coarse. cost: keys that a query meets, as a share of S;
    correction (docs/calibrate.md) is not in it. dynamic_blocks: the least and the most that a
    query block chooses. corrected_heads, heads: numbers.
    """

    exact: float
    fine: float
    coarse: float
    dynamic: float
    cost: float
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
    counts = BlockCounts(exact, fine, coarse, dynamic)
    return PlanMix(
        exact / blocks,
        fine / blocks,
        coarse / blocks,
        dynamic / blocks,
        counts.keys(plan.block_k) / (rows * plan.tokens),
        (min(map(min, chosen)), max(map(max, chosen))),
        sum(int(layer.corrected_heads.sum()) for layer in of if layer.corrected_heads is not None),
        heads,
    )
