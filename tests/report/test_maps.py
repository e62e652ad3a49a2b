"""Pictures of masks against plain counting, and the bound on their size."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from paro_trt.op.mask import unpack_block_mask
from paro_trt.plan import Grid, TextLayout, TextPosition
from paro_trt.report import maps
from paro_trt.report.maps import LEVELS, LayerPictures, PictureMaker, picture_side
from tests.support.plans import small_plan


def counted_levels(mask, before, after):
    """Levels of both pictures of one mask, one cell at a time, in exact integers."""
    tokens_mask, block_mask = mask
    return [
        [
            [level(part[np.ix_(rows, columns)]) for columns in split(part.shape[1], size.columns)]
            for rows in split(part.shape[0], size.rows)
        ]
        for part, size in ((tokens_mask, before), (block_mask, after))
    ]


def split(count, cells):
    return [[i for i in range(count) if i * cells // count == cell] for cell in range(cells)]


def level(part):
    attended, whole = int(part.sum()), part.size
    if attended in (0, whole):
        return LEVELS if attended else 0
    return min(max(round(LEVELS * attended / whole), 1), LEVELS - 1)


@pytest.mark.parametrize("text", [TextLayout(), TextLayout(22, TextPosition.LAST)])
@pytest.mark.parametrize("sides", [(16,), (128,)])
def test_cells_are_shares_of_pairs_and_of_blocks(fresh_seed, monkeypatch, text, sides):
    monkeypatch.setattr(maps, "SIDES", sides)
    monkeypatch.setattr(maps, "_ROWS_AT_ONCE", 3)
    plan = small_plan(grid=Grid(5, 7, 13), text=text, layers=1, density=0.4, seed=fresh_seed)
    maker = PictureMaker(plan)
    drawn = maker.pictures(plan.layers[0])
    layer = plan.layers[0]
    masks = unpack_block_mask(layer.block_mask, plan.key_blocks)
    for mask_bin, head in itertools.product(range(plan.bins), range(2)):
        position = np.argsort(plan.orders[layer.head_order[head]])
        mask = masks[mask_bin, head]
        pairs = mask[np.ix_(position // plan.block_q, position // plan.block_k)]
        wanted = counted_levels((pairs, mask), maker.before, maker.after)
        for part, counted in zip((drawn.before, drawn.after), wanted, strict=True):
            assert (part[mask_bin, head] == np.array(counted)).all()


def test_before_undoes_the_order(fresh_seed):
    """A mask that attends only the diagonal is each token's own block, in any order."""
    plan = small_plan(grid=Grid(4, 8, 8), density=0.0, seed=fresh_seed)
    drawn = PictureMaker(plan).pictures(plan.layers[0])
    for picture in drawn.before.reshape(-1, *drawn.before.shape[2:]):
        assert (np.diagonal(picture) > 0).all()
    assert (drawn.after == LEVELS * np.eye(plan.query_blocks, dtype=np.uint8)).all()


def test_packing_keeps_every_level(fresh_seed):
    rng = np.random.default_rng(fresh_seed)
    before = rng.integers(0, 16, (2, 3, 5, 5), dtype=np.uint8)
    after = rng.integers(0, 16, (2, 3, 3, 7), dtype=np.uint8)
    packed = np.frombuffer(LayerPictures(before, after).packed(), np.uint8)
    levels = np.stack([packed & 15, packed >> 4], axis=1).ravel()
    wanted = np.concatenate([before.ravel(), after.ravel()])
    assert (levels[: wanted.size] == wanted).all()


def test_resolution_falls_so_that_the_pictures_fit():
    small = small_plan(layers=1)
    layer = small.layers[0]
    for count in (1, 100, 1600):
        layers = tuple(dataclasses.replace(layer, name=f"layer{i}") for i in range(count))
        plan = dataclasses.replace(small, layers=layers)
        side = picture_side(plan)
        assert 2 * plan.bins * 2 * count * side * side // 2 <= maps.PICTURE_BYTES
    assert side < picture_side(small) == maps.SIDES[0]
