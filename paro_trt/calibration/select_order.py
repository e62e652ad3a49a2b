"""Which order each head uses: the one under which the blocks it may keep leave the least out."""

from __future__ import annotations

from enum import Enum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .select_mask import MaskTarget, block_budget
from .statistics import BlockStatistics

PAPER_SIGMA = 0.9
"""A block is sparse in the paper's metric when at least this share of its entries is empty."""

PAPER_ALPHA = 0.5
"""Weight of sparsity against quantization in the paper's metric, which gives no value."""


class OrderMetric(str, Enum):
    """What makes an order good.

    OUTPUT_ERROR: the output error left by the best mask at the target density.
    MASS: the attention kept by the best mask at the target density.
    PAPER: the paper's weighted sum (arXiv 2506.16054, section 4.2) of the share of sparse
        blocks and of max/mean within blocks, each relative to the largest among the candidates.
        As printed, its argmin would favour orders with FEWER sparse blocks; here the sparse
        share counts as a gain and max/mean as a cost.

    A mass target has no density to compare errors at: under it OUTPUT_ERROR and MASS both
    prefer the order that holds the mass in the fewest blocks.
    """

    OUTPUT_ERROR = "output-error"
    MASS = "mass"
    PAPER = "paper"


ORDER_TERMS = 2
"""Numbers `order_terms` gives for one head, order and capture."""


def order_terms(
    statistics: BlockStatistics, forced: Tensor, target: MaskTarget, metric: OrderMetric
) -> tuple[float, float]:
    """What one capture says of one order for one head; averages over captures are meaningful.

    Args:
        statistics: of n query blocks under the order, with `paper` for `OrderMetric.PAPER`.
        forced: bool [n, NK], blocks that any mask keeps.
        target: density or mass of the mask.
        metric: what to measure.

    Returns:
        (cost, 0), lower is better; for PAPER (share of sparse blocks, mean of max/mean).
    """
    if metric is OrderMetric.PAPER:
        sparse = (statistics.empty_share >= PAPER_SIGMA).float().mean()
        return float(sparse), float(statistics.peak_ratio.mean())
    if target.mass is not None:
        return _density_needed(statistics.mass, forced, target.mass), 0.0
    blocks_left = forced.numel() - block_budget(target.density or 0.0, forced.numel())
    if metric is OrderMetric.MASS:
        return _smallest_sum(statistics.mass, forced, blocks_left), 0.0
    energy = statistics.energy.sum().clamp(min=torch.finfo(torch.float32).tiny)
    return _smallest_sum(statistics.error / energy, forced, blocks_left), 0.0


def choose_orders(
    terms: NDArray[np.float64], metric: OrderMetric, heads_per_group: int
) -> NDArray[np.int32]:
    """The candidate each head uses; the first wins a tie, so the identity leads the candidates.

    Args:
        terms: f64 [C, H, ORDER_TERMS], `order_terms` averaged over captures.
        metric: how the terms were made.
        heads_per_group: query heads that share a key head, and so an order.

    Returns:
        int32 [H], equal within a group.
    """
    costs = _paper_costs(terms) if metric is OrderMetric.PAPER else terms[..., 0]
    candidates, heads = costs.shape
    of_group = costs.reshape(candidates, heads // heads_per_group, heads_per_group).sum(axis=2)
    return np.repeat(of_group.argmin(axis=0), heads_per_group).astype(np.int32)


def _paper_costs(terms: NDArray[np.float64]) -> NDArray[np.float64]:
    largest = np.maximum(terms.max(axis=0, keepdims=True), np.finfo(np.float64).tiny)
    sparse, peaked = np.moveaxis(terms / largest, -1, 0)
    return np.asarray((1.0 - PAPER_ALPHA) * peaked - PAPER_ALPHA * sparse)


def _smallest_sum(score: Tensor, forced: Tensor, count: int) -> float:
    """Sum of the `count` smallest scores that are not forced: what the best mask leaves out."""
    free = score[~forced].double().sort().values
    return float(free[:count].sum())


def _density_needed(mass: Tensor, forced: Tensor, wanted: float) -> float:
    """Share of blocks in the smallest mask that holds `wanted` of the mass."""
    missing = wanted * mass.sum().double() - mass[forced].sum().double()
    held = mass[~forced].double().sort(descending=True).values.cumsum(0)
    needed = int((held < missing).sum()) + int(missing > 0)
    return (int(forced.sum()) + needed) / forced.numel()
