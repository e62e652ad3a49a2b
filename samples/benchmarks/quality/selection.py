"""Which blocks are exact, fine or coarse under one budget of keys, by the error that each leaves.

A block is moved to a better kind where that removes most error for each key that it adds: with
the error e and keys c of a kind, all kinds on the lower convex hull of (c, e) are candidates, and
one price lambda of a key for all heads of a layer minimises error + lambda * keys.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paro_trt.op.spec import FINE_SUMMARIES

from .blocks import Kind
from .sources import BLOCK_K


def cheapest_kinds(
    coarse: Tensor, fine: Tensor | None, forced: Tensor, keys: float
) -> Tensor | None:
    """Kinds uint8 [H, n, NK] of pooled blocks, or None where the forced blocks exceed the budget.

    Args:
        coarse: [H, n, NK], the error that one summary leaves.
        fine: that four leave; None: blocks are coarse or exact.
        forced: bool [n, NK], exact whatever their error.
        keys: budget: keys that a query attends on average, summaries included.
    """
    forced = forced.expand_as(coarse)
    levels = torch.full(coarse.shape, int(Kind.COARSE), dtype=torch.uint8)
    levels[forced] = Kind.EXACT
    budget = keys * coarse.shape[0] * coarse.shape[1] - _cost(levels)
    if budget < 0:
        return None
    free = (~forced).flatten().nonzero().flatten()
    full = coarse.flatten()[free]
    to_exact = float(BLOCK_K - 1)
    if fine is None:
        steps = [(full / to_exact, to_exact, Kind.EXACT)]
    else:
        part = torch.minimum(fine.flatten()[free], full)
        to_fine, from_fine = float(FINE_SUMMARIES - 1), float(BLOCK_K - FINE_SUMMARIES)
        first, second = (full - part) / to_fine, part / from_fine
        on_hull = first >= second
        # Off the hull the two steps are taken together: both at the price of the whole.
        whole = full / to_exact
        steps = [
            (torch.where(on_hull, first, whole), to_fine, Kind.FINE),
            (torch.where(on_hull, second, whole), from_fine, Kind.EXACT),
        ]
    # Stable: of equal gains a block's first step comes before its second.
    gain = torch.stack([step[0] for step in steps], dim=1).flatten()
    added = torch.tensor([step[1] for step in steps]).repeat(len(free))
    kind = torch.tensor([int(step[2]) for step in steps], dtype=torch.uint8).repeat(len(free))
    taken = gain.argsort(descending=True, stable=True)
    taken = taken[added[taken].double().cumsum(0) <= budget]
    index = free.repeat_interleave(len(steps))[taken]
    levels.view(-1).scatter_reduce_(0, index, kind[taken], "amax")
    return levels


def cheapest_exact(dropped: Tensor, forced: Tensor, keys: float) -> Tensor | None:
    """Kinds uint8 [H, n, NK] where other blocks vanish; arguments as of `cheapest_kinds`."""
    forced = forced.expand_as(dropped)
    count = int(keys * dropped.shape[0] * dropped.shape[1] / BLOCK_K * (1 + 2.0**-50))
    if count < int(forced.sum()):
        return None
    score = dropped.masked_fill(forced, torch.inf).flatten()
    levels = torch.zeros(dropped.shape, dtype=torch.uint8)
    levels.view(-1)[score.argsort(descending=True, stable=True)[:count]] = Kind.EXACT
    return levels


def _cost(levels: Tensor) -> float:
    """Keys over all rows of blocks, each row counted once."""
    return float((levels == Kind.COARSE).sum() + BLOCK_K * (levels == Kind.EXACT).sum())
