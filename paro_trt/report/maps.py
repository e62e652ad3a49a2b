"""Coarse pictures of a head's block mask, in the model's own token order and in the head's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..op.mask import unpack_block_mask
from ..plan import LayerPlan, ParoPlan

SIDES = (128, 96, 64, 48, 40, 32, 24, 16)
"""Cells along an axis of a picture; the largest that fits `PICTURE_BYTES` is taken."""

PICTURE_BYTES = 7_500_000
"""All pictures of a page, before compression. In base64 they then stay below 10 MB for
any mask."""

LEVELS = 15
"""A cell's level: 0 means that nothing is attended, LEVELS that everything is, the rest a part."""

_ROWS_AT_ONCE = 4 << 20
"""Mask entries unpacked at a time."""

# Integers to here are exact in float32, so the order of a sum does not matter.
_EXACT = 1 << 24


@dataclass(frozen=True)
class PictureSize:
    """Rows and columns of a picture."""

    rows: int
    columns: int


@dataclass(frozen=True, eq=False)
class LayerPictures:
    """Pictures of a layer, T bins and H heads, as levels 0..`LEVELS`.

    Args:
        before: uint8 [T, H, rows, columns], in the model's own token order: the share of a
            cell's (query token, key token) pairs that the mask attends.
        after: uint8 [T, H, rows, columns], in the head's order: the share of a cell's blocks that
            are attended; one block a cell where there are no more blocks than cells.
    """

    before: NDArray[np.uint8]
    after: NDArray[np.uint8]

    def packed(self) -> bytes:
        """All levels of `before`, then of `after`, two in a byte, the first in its low half."""
        levels = np.concatenate([self.before.ravel(), self.after.ravel()])
        if levels.size % 2:
            levels = np.append(levels, np.uint8(0))
        packed: NDArray[np.uint8] = levels[0::2] | levels[1::2] << 4
        return packed.tobytes()

    def telling(self) -> NDArray[np.float64]:
        """f64 [H]: how clearly a head shows what a reorder does. It is the share of cells that the
        reorder empties, times the contrast before
        (stripes finer than a cell average to one colour)."""
        touched = [(part > 0).mean(axis=(0, 2, 3)) for part in (self.before, self.after)]
        contrast = self.before.std(axis=(2, 3)).mean(axis=0)
        return np.asarray((touched[0] - touched[1]) * contrast)


class PictureMaker:
    """Draws the layers of one plan."""

    def __init__(self, plan: ParoPlan) -> None:
        self.plan = plan
        side = picture_side(plan)
        tokens = min(side, plan.tokens)
        self.before = PictureSize(tokens, tokens)
        self.after = PictureSize(min(side, plan.query_blocks), min(side, plan.key_blocks))
        largest_cell = -(-plan.tokens // tokens)
        self._dtype = np.float32 if largest_cell**2 < _EXACT else np.float64
        self._query_groups = self._block_counts(plan.query_blocks, self.after.rows)
        self._key_groups = self._block_counts(plan.key_blocks, self.after.columns)

    def pictures(self, layer: LayerPlan) -> LayerPictures:
        """The pictures of one layer of the plan."""
        bins, heads = layer.block_mask.shape[:2]
        before = np.empty((bins, heads, self.before.rows, self.before.columns), np.uint8)
        after = np.empty((bins, heads, self.after.rows, self.after.columns), np.uint8)
        for order in np.unique(layer.head_order):
            queries, keys = self._token_counts(int(order))
            for head in np.flatnonzero(layer.head_order == order):
                for mask_bin in range(bins):
                    words = layer.block_mask[mask_bin, head]
                    before[mask_bin, head], after[mask_bin, head] = self._cells(
                        words, queries, keys
                    )
        return LayerPictures(before, after)

    def _token_counts(self, order: int) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """How many tokens of each cell are in each block: [rows, NQ] and [columns, NK]."""
        plan = self.plan
        position = np.empty(plan.tokens, np.int64)
        position[plan.orders[order]] = np.arange(plan.tokens)
        cell = _cells_of(plan.tokens, self.before.rows)
        queries = self._counts(cell, position // plan.block_q, plan.query_blocks)
        keys = self._counts(cell, position // plan.block_k, plan.key_blocks)
        return queries, keys

    def _block_counts(self, blocks: int, cells: int) -> NDArray[np.floating]:
        """[cells, blocks]: 1 where a cell covers a block."""
        return self._counts(_cells_of(blocks, cells), np.arange(blocks), blocks)

    def _counts(
        self, cell: NDArray[np.int64], block: NDArray[np.int64], blocks: int
    ) -> NDArray[np.floating]:
        """[cells, blocks]: things of each cell (ascending, none empty) in each block."""
        cells = int(cell[-1]) + 1
        counts = np.bincount(cell * blocks + block, minlength=cells * blocks)
        return counts.reshape(cells, blocks).astype(self._dtype)

    def _cells(
        self, words: NDArray[np.int32], queries: NDArray[np.floating], keys: NDArray[np.floating]
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Levels, before and after, of one mask int32 [NQ, W]."""
        columns = np.concatenate([keys, self._key_groups]).T
        split = self.before.columns
        before = np.zeros((self.before.rows, split), self._dtype)
        after = np.zeros((self.after.rows, self.after.columns), self._dtype)
        for rows in self._row_ranges():
            mask = unpack_block_mask(words[rows], self.plan.key_blocks).astype(self._dtype)
            reduced = mask @ columns
            before += queries[:, rows] @ reduced[:, :split]
            after += self._query_groups[:, rows] @ reduced[:, split:]
        return (
            _levels(before, _pairs(queries, keys)),
            _levels(after, _pairs(self._query_groups, self._key_groups)),
        )

    def _row_ranges(self) -> Iterator[slice]:
        step = max(1, _ROWS_AT_ONCE // self.plan.key_blocks)
        for start in range(0, self.plan.query_blocks, step):
            yield slice(start, min(start + step, self.plan.query_blocks))


def picture_side(plan: ParoPlan) -> int:
    """Cells along an axis, the same for every picture of the plan."""
    pictures = 2 * plan.bins * sum(len(layer.heads) for layer in plan.layers)
    fitting = [side for side in SIDES if pictures * side * side // 2 <= PICTURE_BYTES]
    return fitting[0] if fitting else SIDES[-1]


def _cells_of(count: int, cells: int) -> NDArray[np.int64]:
    """The cell of each of `count` things in a row; cells are equal to within one."""
    return np.arange(count) * cells // count


def _pairs(queries: NDArray[np.floating], keys: NDArray[np.floating]) -> NDArray[np.float64]:
    """f64 [rows, columns]: pairs of things in each cell."""
    return np.outer(queries.sum(axis=1, dtype=np.float64), keys.sum(axis=1, dtype=np.float64))


def _levels(attended: NDArray[np.floating], pairs: NDArray[np.float64]) -> NDArray[np.uint8]:
    between = np.rint(attended / pairs * LEVELS).clip(1, LEVELS - 1)
    levels = np.where(attended == pairs, LEVELS, np.where(attended == 0, 0, between))
    return levels.astype(np.uint8)
