"""Candidate orders of the visual tokens of a grid: axis orders, 3-D tiles, Morton and Hilbert.

An order is a permutation: position j of the reordered sequence holds token order[j] of the
model's own sequence, which runs over frames, then rows, then columns.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentError
from ..plan import Grid, TextLayout, TextPosition

AXES = "fhw"
"""Letters of the grid's axes: frames, height, width. "fhw" is the identity."""

TILE_SHAPES = (
    # 64 tokens: one key block of the default size.
    (4, 4, 4), (1, 8, 8), (2, 4, 8), (2, 8, 4), (8, 2, 4), (8, 4, 2), (8, 1, 8), (8, 8, 1),
    # 128 tokens: one query block of the default size.
    (2, 8, 8), (8, 4, 4), (4, 4, 8), (4, 8, 4),
)  # fmt: skip
"""Tile extents (frames, height, width) tried on every grid, clipped to it."""

ADAPTED_TILE_TOKENS = (64, 128)
"""Tile sizes for which a shape that divides the grid is looked for as well."""

_TILE_NAME = re.compile(r"tile(\d+)x(\d+)x(\d+)")


class CandidateOrder(NamedTuple):
    """A named permutation int32 [S] of the whole sequence, text included."""

    name: str
    permutation: NDArray[np.int32]


def candidate_names(grid: Grid) -> tuple[str, ...]:
    """Names of the orders worth trying on `grid`, the identity first."""
    axis_names = ["".join(axes) for axes in itertools.permutations(AXES)]
    shapes = [_clipped(shape, grid) for shape in TILE_SHAPES]
    shapes += [_dividing_tile(grid, tokens) for tokens in ADAPTED_TILE_TOKENS]
    tile_names = ["tile{}x{}x{}".format(*shape) for shape in shapes]
    return tuple(dict.fromkeys([*axis_names, *tile_names, "morton", "hilbert"]))


def candidate_orders(
    grid: Grid, text: TextLayout, names: Sequence[str] | None = None
) -> tuple[CandidateOrder, ...]:
    """The candidate permutations of a sequence, equal ones removed (the first name stays).

    Text tokens keep their own order and their place: before the visual tokens for
    `TextPosition.FIRST`, after them for `TextPosition.LAST`.

    Args:
        grid: extents of the visual tokens (frames, height, width).
        text: where the model's sequence holds text tokens.
        names: orders to build; None means `candidate_names(grid)`.

    Raises:
        ArgumentError: an unknown name, or no name at all.
    """
    wanted = candidate_names(grid) if names is None else tuple(names)
    if not wanted:
        raise ArgumentError("candidate orders", expected="at least one name", actual="none")
    unique: dict[bytes, CandidateOrder] = {}
    for name in wanted:
        permutation = _with_text(visual_order(grid, name), text)
        unique.setdefault(permutation.tobytes(), CandidateOrder(name, permutation))
    return tuple(unique.values())


def visual_order(grid: Grid, name: str) -> NDArray[np.int32]:
    """The permutation int32 [F*H*W] called `name`, over the visual tokens alone.

    Raises:
        ArgumentError: the name is none of the axis orders, "tileAxBxC", "morton", "hilbert".
    """
    tile = _TILE_NAME.fullmatch(name)
    if sorted(name) == sorted(AXES):
        keys = _axis_keys(grid, name)
    elif tile and all(int(extent) > 0 for extent in tile.groups()):
        keys = _tile_keys(grid, (int(tile[1]), int(tile[2]), int(tile[3])))
    elif name == "morton":
        keys = [_morton_index(*_curve_coordinates(grid))]
    elif name == "hilbert":
        keys = [_hilbert_index(*_curve_coordinates(grid))]
    else:
        raise ArgumentError(
            "order name",
            expected="a permutation of 'fhw', 'tileAxBxC', 'morton' or 'hilbert'",
            actual=repr(name),
        )
    # lexsort takes the least significant key first.
    return np.lexsort(keys[::-1]).astype(np.int32)


def _with_text(visual: NDArray[np.int32], text: TextLayout) -> NDArray[np.int32]:
    if text.position is TextPosition.NONE:
        return visual
    if text.position is TextPosition.FIRST:
        parts = [np.arange(text.count, dtype=np.int32), visual + np.int32(text.count)]
    else:
        parts = [visual, np.arange(visual.size, visual.size + text.count, dtype=np.int32)]
    return np.concatenate(parts).astype(np.int32)


def _coordinates(grid: Grid) -> NDArray[np.int64]:
    """int64 [3, F*H*W]: frame, row and column of each token of the model's sequence."""
    return np.indices((grid.frames, grid.height, grid.width)).reshape(3, -1)


def _axis_keys(grid: Grid, name: str) -> list[NDArray[np.int64]]:
    coordinates = _coordinates(grid)
    return [coordinates[AXES.index(axis)] for axis in name]


def _tile_keys(grid: Grid, shape: tuple[int, int, int]) -> list[NDArray[np.int64]]:
    coordinates = _coordinates(grid)
    extents = np.array(shape)[:, None]
    return [*(coordinates // extents), *(coordinates % extents)]


def _clipped(shape: tuple[int, int, int], grid: Grid) -> tuple[int, int, int]:
    return (min(shape[0], grid.frames), min(shape[1], grid.height), min(shape[2], grid.width))


def _dividing_tile(grid: Grid, tokens: int) -> tuple[int, int, int]:
    """The tile whose extents divide the grid's, nearest to `tokens` tokens, then most compact."""

    def shape_cost(shape: tuple[int, int, int]) -> tuple[float, int, tuple[int, int, int]]:
        return abs(math.log(math.prod(shape) / tokens)), sum(shape), shape

    shapes = itertools.product(
        _divisors(grid.frames), _divisors(grid.height), _divisors(grid.width)
    )
    return min(shapes, key=shape_cost)


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def _curve_coordinates(grid: Grid) -> tuple[list[NDArray[np.int64]], int]:
    """Coordinates on the axes longer than one, and the bits of the enclosing cube's edge.

    A space-filling curve of the enclosing power-of-two cube, sorted, orders any box inside it.
    """
    extents = (grid.frames, grid.height, grid.width)
    axes = [axis for axis, extent in zip(_coordinates(grid), extents, strict=True) if extent > 1]
    return axes, (max(extents) - 1).bit_length()


def _morton_index(axes: list[NDArray[np.int64]], bits: int) -> NDArray[np.int64]:
    return _interleaved(axes, bits)


def _hilbert_index(axes: list[NDArray[np.int64]], bits: int) -> NDArray[np.int64]:
    """Position on the Hilbert curve of a cube of edge 2**bits, in any number of dimensions.

    Source: J. Skilling, "Programming the Hilbert curve", AIP Conf. Proc. 707, 381 (2004),
    AxesToTranspose, over whole arrays.
    """
    if len(axes) < 2:
        return _interleaved(axes, bits)
    x = [axis.copy() for axis in axes]
    for level in reversed(range(1, bits)):
        high, low = 1 << level, (1 << level) - 1
        for i in range(len(x)):
            mirrored = (x[i] & high) != 0
            swap = np.where(mirrored, 0, (x[0] ^ x[i]) & low)
            x[0] ^= np.where(mirrored, low, swap)
            x[i] ^= swap
    for i in range(1, len(x)):
        x[i] ^= x[i - 1]
    flips = np.zeros_like(x[0])
    for level in reversed(range(1, bits)):
        flips ^= np.where((x[-1] & (1 << level)) != 0, (1 << level) - 1, 0)
    return _interleaved([axis ^ flips for axis in x], bits)


def _interleaved(axes: list[NDArray[np.int64]], bits: int) -> NDArray[np.int64]:
    """Bits of the coordinates in turn, most significant first, the first axis leading."""
    index = np.zeros_like(axes[0]) if axes else np.zeros(1, dtype=np.int64)
    for level in reversed(range(bits)):
        for axis in axes:
            index = (index << 1) | ((axis >> level) & 1)
    return index
