"""What reordering does to attention: block averages of a few heads before and after."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from paro_trt.calibration.calls import RecordedCall
from paro_trt.calibration.capture import capture_attention
from paro_trt.families.base import AttentionSite
from paro_trt.models.apply import geometry_of
from paro_trt.models.load import LoadedModel
from paro_trt.op.mask import unpack_block_mask
from paro_trt.plan import ParoPlan

CELL = 32
"""Tokens averaged into one cell of a picture, along queries and along keys."""

BRIGHTEST, DARKEST = 30.0, 0.03
"""Ends of the colour scale, in multiples of even attention."""


@dataclass(frozen=True)
class HeadMap:
    """One head at one step, in one order of its tokens.

    Args:
        cells: [S/CELL, S/CELL], mean attention in multiples of even attention.
        mask: bool [NQ, NK], blocks that are attended.
        mass: share of the attention those blocks hold.
    """

    cells: NDArray[np.float64]
    mask: NDArray[np.bool_]
    mass: float


@dataclass(frozen=True)
class HeadStory:
    """A head in the model's order and in the plan's, with as many blocks attended."""

    title: str
    before: HeadMap
    after: HeadMap

    @property
    def gain(self) -> float:
        """Attention that the reorder brings into the mask."""
        return self.after.mass - self.before.mass


def head_stories(
    loaded: LoadedModel,
    plan: ParoPlan,
    call: RecordedCall,
) -> list[HeadStory]:
    """Every head of every layer in one recorded call, those that gain most first."""
    stories: list[HeadStory] = []
    mask_bin = plan.bin_of(call.timestep)

    def consume(
        index: int, site: AttentionSite, query: Tensor, key: Tensor, _value: Tensor, scale: float
    ) -> None:
        layer = plan.layer(site.name)
        masks = unpack_block_mask(layer.block_mask[mask_bin], plan.key_blocks)
        group = site.heads // site.kv_heads
        for head in range(site.heads):
            attention = torch.softmax(query[:, head] @ key[:, head // group].T * scale, dim=-1)
            order = torch.from_numpy(plan.orders[layer.head_order[head]].astype(np.int64))
            before = _best_blocks(plan, attention, int(masks[head].sum()))
            after = _head_map(plan, attention[order][:, order], masks[head])
            name = layer.heads[head].order
            title = f"layer {index}, head {head}: order {name}, density {masks[head].mean():.2f}"
            stories.append(HeadStory(title, before, after))

    device = torch.device("cpu")
    capture_attention(loaded, geometry_of(plan), call, device, consume)
    return sorted(stories, key=lambda story: -story.gain)


def write_maps(stories: list[HeadStory], path: Path) -> None:
    """PNG: one column a head, above in the model's order, below in the plan's."""
    figure = Figure(figsize=(4.1 * len(stories) + 0.9, 9.0), layout="constrained")
    grid = figure.subplots(2, len(stories), squeeze=False)
    for column, story in enumerate(stories):
        above, below = grid[0][column], grid[1][column]
        _draw(above, story.before)
        image = _draw(below, story.after)
        above.set_title(
            f"{story.title}\nmodel's order: the best blocks hold {story.before.mass:.0%}",
            fontsize=10,
        )
        below.set_title(f"reordered: the mask holds {story.after.mass:.0%}", fontsize=10)
        below.set_xlabel("key token")
    grid[0][0].set_ylabel("query token, model's order")
    grid[1][0].set_ylabel("query token, the head's order")
    figure.colorbar(image, ax=grid, shrink=0.6, pad=0.01, label="attention, 1 = even")
    figure.suptitle(
        f"Attention averaged over {CELL} x {CELL} tokens; outlined: attended blocks, as many above "
        "as below",
        fontsize=12,
    )
    figure.savefig(path, dpi=100)


def _head_map(plan: ParoPlan, attention: Tensor, mask: NDArray[np.bool_]) -> HeadMap:
    sums = _block_sums(attention, plan.block_q, plan.block_k).numpy()
    cells = _block_sums(attention, CELL, CELL).numpy() / CELL**2 * len(attention)
    return HeadMap(cells, mask, float(sums[mask].sum() / sums.sum()))


def _best_blocks(plan: ParoPlan, attention: Tensor, count: int) -> HeadMap:
    """The mask of `count` blocks that holds the most attention."""
    sums = _block_sums(attention, plan.block_q, plan.block_k)
    mask = torch.zeros_like(sums, dtype=torch.bool)
    mask.view(-1)[sums.flatten().topk(count).indices] = True
    return _head_map(plan, attention, mask.numpy())


def _block_sums(attention: Tensor, rows: int, columns: int) -> Tensor:
    """float64 sums over blocks; the model's grid divides into whole ones."""
    tokens = len(attention)
    blocks = attention.double().view(tokens // rows, rows, tokens // columns, columns)
    return blocks.sum(dim=(1, 3))


def _draw(axes: Axes, shown: HeadMap):
    tokens = len(shown.cells) * CELL
    image = axes.imshow(
        shown.cells,
        extent=(0, tokens, tokens, 0),
        norm=LogNorm(DARKEST, BRIGHTEST, clip=True),
        cmap="magma",
        interpolation="nearest",
    )
    axes.add_collection(LineCollection(_outline(shown.mask, tokens), colors="cyan", linewidths=0.9))
    axes.set_xticks(range(0, tokens + 1, tokens // 4))
    axes.set_yticks(range(0, tokens + 1, tokens // 4))
    return image


def _outline(mask: NDArray[np.bool_], tokens: int) -> list[list[tuple[float, float]]]:
    """Line segments (x, y) between blocks that are attended and blocks that are not."""
    height, width = tokens / mask.shape[0], tokens / mask.shape[1]
    across = np.diff(np.pad(mask, ((1, 1), (0, 0))).astype(int), axis=0)
    along = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(int), axis=1)
    rows = [
        [(column * width, row * height), ((column + 1) * width, row * height)]
        for row, column in np.argwhere(across)
    ]
    columns = [
        [(column * width, row * height), (column * width, (row + 1) * height)]
        for row, column in np.argwhere(along)
    ]
    return rows + columns
