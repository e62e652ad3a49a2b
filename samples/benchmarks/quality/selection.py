"""Which blocks are exact, fine or coarse under one budget of keys, as `paro-trt calibrate` chooses
them; and blocks of which the others vanish."""

from __future__ import annotations

import torch
from torch import Tensor

from paro_trt.calibration.select_mask import block_budget
from paro_trt.calibration.select_mix import BlockErrors, BlockMix, best_mix

from .blocks import KEYS, Kind
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
    budget = int(keys * coarse.shape[0] * coarse.shape[1])
    least = torch.where(forced, KEYS[Kind.EXACT], KEYS[Kind.COARSE]).sum() * len(coarse)
    if budget < int(least):
        return None
    errors = [x.float().numpy() for x in (coarse, coarse if fine is None else fine)]
    return kinds_of(best_mix(BlockErrors(*errors, forced.numpy(), BLOCK_K), budget))


def kinds_of(mix: BlockMix) -> Tensor:
    """`Kind` of each block, uint8, of the shape of the mix."""
    exact, fine = (torch.from_numpy(plane) for plane in mix)
    kinds = torch.full(exact.shape, int(Kind.COARSE), dtype=torch.uint8)
    kinds[fine] = Kind.FINE
    kinds[exact] = Kind.EXACT
    return kinds


def cheapest_exact(dropped: Tensor, forced: Tensor, keys: float) -> Tensor | None:
    """Kinds uint8 [H, n, NK] where other blocks vanish; arguments as of `cheapest_kinds`."""
    forced = forced.expand_as(dropped)
    count = block_budget(keys / BLOCK_K / dropped.shape[-1], dropped.numel())
    if count < int(forced.sum()):
        return None
    score = dropped.masked_fill(forced, torch.inf).flatten()
    levels = torch.zeros(dropped.shape, dtype=torch.uint8)
    levels.view(-1)[score.argsort(descending=True, stable=True)[:count]] = Kind.EXACT
    return levels
