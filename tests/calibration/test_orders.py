import time

import numpy as np
import pytest

from paro_trt.calibration.orders import candidate_names, candidate_orders, visual_order
from paro_trt.errors import ArgumentError
from paro_trt.plan import Grid, TextLayout, TextPosition

NO_TEXT = TextLayout()
GRIDS = [Grid(2, 3, 5), Grid(8, 16, 16), Grid(3, 1, 7), Grid(1, 1, 1), Grid(5, 6, 1)]


@pytest.mark.parametrize("grid", GRIDS)
def test_every_candidate_is_a_permutation_and_no_two_are_equal(grid):
    orders = candidate_orders(grid, NO_TEXT)
    assert orders[0].name == "fhw"
    for order in orders:
        assert order.permutation.dtype == np.int32
        assert np.array_equal(np.sort(order.permutation), np.arange(grid.tokens))
    assert len({order.permutation.tobytes() for order in orders}) == len(orders)


def test_axis_orders_are_transposes_of_the_grid():
    grid = Grid(2, 3, 4)
    tokens = np.arange(24).reshape(2, 3, 4)
    assert np.array_equal(visual_order(grid, "fhw"), np.arange(24))
    assert np.array_equal(visual_order(grid, "whf"), tokens.transpose(2, 1, 0).ravel())
    assert np.array_equal(visual_order(grid, "wfh"), tokens.transpose(2, 0, 1).ravel())


def test_tiles_are_contiguous_runs():
    grid = Grid(4, 8, 12)
    order = visual_order(grid, "tile2x4x6")
    frames, rows, columns = np.unravel_index(order, (4, 8, 12))
    for start in range(0, order.size, 48):
        run = slice(start, start + 48)
        for coordinate, extent in ((frames, 2), (rows, 4), (columns, 6)):
            assert len(np.unique(coordinate[run] // extent)) == 1


def test_a_grid_no_power_of_two_divides_gets_tiles_that_divide_it():
    names = candidate_names(Grid(21, 45, 80))
    tiles = [tuple(map(int, name[4:].split("x"))) for name in names if name.startswith("tile")]
    dividing = [t for t in tiles if 21 % t[0] == 0 and 45 % t[1] == 0 and 80 % t[2] == 0]
    assert any(60 <= np.prod(tile) <= 68 for tile in dividing)
    assert any(120 <= np.prod(tile) <= 136 for tile in dividing)


def test_morton_order_of_a_cube_interleaves_bits():
    order = visual_order(Grid(4, 4, 4), "morton")
    coordinates = np.unravel_index(order, (4, 4, 4))
    expected = [
        [(j >> (3 * bit + 2 - axis) & 1) << bit for bit in range(2)]
        for axis in range(3)
        for j in range(64)
    ]
    assert np.array_equal(np.sum(expected, axis=1).reshape(3, 64), coordinates)


@pytest.mark.parametrize("grid", [Grid(8, 8, 8), Grid(16, 16, 16), Grid(1, 16, 16)])
def test_hilbert_neighbours_touch(grid):
    order = visual_order(grid, "hilbert")
    extents = (grid.frames, grid.height, grid.width)
    steps = np.abs(np.diff(np.stack(np.unravel_index(order, extents)), axis=1))
    assert np.array_equal(steps.sum(axis=0), np.ones(grid.tokens - 1))


@pytest.mark.parametrize("position", [TextPosition.FIRST, TextPosition.LAST])
def test_text_keeps_its_place_and_order(position):
    grid, text = Grid(2, 4, 4), TextLayout(count=5, position=position)
    for order in candidate_orders(grid, text):
        permutation = order.permutation
        assert np.array_equal(np.sort(permutation), np.arange(37))
        if position is TextPosition.FIRST:
            assert np.array_equal(permutation[:5], np.arange(5))
            visual = permutation[5:] - 5
        else:
            assert np.array_equal(permutation[32:], np.arange(32, 37))
            visual = permutation[:32]
        assert np.array_equal(visual, visual_order(grid, order.name))


def test_every_order_of_a_long_video_takes_well_under_a_second():
    grid = Grid(33, 45, 80)
    for name in candidate_names(grid):
        start = time.process_time()
        assert visual_order(grid, name).size == 118_800
        assert time.process_time() - start < 1.0, name


@pytest.mark.parametrize("name", ["fhx", "", "tile0x2x2", "tile4x4", "spiral"])
def test_unknown_name_is_refused(name):
    with pytest.raises(ArgumentError, match="order name"):
        candidate_orders(Grid(2, 2, 2), NO_TEXT, [name])


def test_no_names_are_refused():
    with pytest.raises(ArgumentError, match="at least one"):
        candidate_orders(Grid(2, 2, 2), NO_TEXT, [])
