"""Masks of an exact density from a distance between blocks, and distances made of geometry."""

import torch
from torch import Tensor

from paro_trt.calibration.select_mask import block_budget
from paro_trt.calibration.statistics import Tiling
from paro_trt.op.spec import block_count
from paro_trt.plan import Grid


def nearest_blocks(distance: Tensor, density: float) -> Tensor:
    """bool [..., NQ, NK]: the nearest key blocks of each query block.

    `block_budget` blocks in all, at least one a row, as evenly over the rows as
    integers allow. distance: [..., NQ, NK].
    """
    rows, columns = distance.shape[-2:]
    budget = max(block_budget(density, rows * columns), rows)
    edges = torch.arange(rows + 1, device=distance.device) * budget // rows
    rank = distance.argsort(dim=-1, stable=True).argsort(dim=-1, stable=True)
    return rank < edges.diff()[:, None]


def block_centres(grid: Grid, order: Tensor, block: int) -> Tensor:
    """Mean (frame, row, column) of each block's visual tokens, f32 [blocks, 3].

    order: int64 [S], text tokens last. A block of text alone is at the grid's last token.
    """
    sizes = (grid.frames, grid.height, grid.width)
    visual = order.clamp(max=grid.tokens - 1)
    coordinates = torch.stack(torch.unravel_index(visual, sizes), dim=1).float()
    return torch.stack([part.mean(dim=0) for part in coordinates.split(block)])


def window_distance(
    grid: Grid, order: Tensor, tiling: Tiling, aspect: tuple[float, float, float]
) -> Tensor:
    """Distance [NQ, NK] whose level sets are boxes with sides in the ratio `aspect`.

    The nearest k blocks by it are a sliding window that moves inwards at the borders of the
    video, as in Sliding Tile Attention (arXiv 2502.04507).
    """
    query = block_centres(grid, order, tiling.block_q)
    key = block_centres(grid, order, tiling.block_k)
    apart = (query[:, None] - key[None]).abs() / torch.tensor(aspect)
    # Within a shell of the box the nearer block comes first.
    return apart.amax(dim=2) + 1e-3 * apart.norm(dim=2)


def band_distance(tokens: int, tiling: Tiling) -> Tensor:
    """Distance [NQ, NK] along the sequence between the middles of blocks."""
    query = (torch.arange(block_count(tokens, tiling.block_q)) + 0.5) * tiling.block_q
    key = (torch.arange(block_count(tokens, tiling.block_k)) + 0.5) * tiling.block_k
    return (query[:, None] - key[None]).abs()
