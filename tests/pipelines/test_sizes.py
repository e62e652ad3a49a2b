"""Sizes in pixels and token grids, of every family."""

from __future__ import annotations

import pytest

from paro_trt.errors import ModelError
from paro_trt.families.presets import PRESETS
from paro_trt.pipelines.sizes import grid_of_size, nearest_size, size_of_grid
from paro_trt.plan import Grid
from tests.support.tiny import variants_of
from tests.support.tiny.model import TinyModel

TINY = [tiny for family in PRESETS for tiny in variants_of(family) if tiny.available]


@pytest.mark.parametrize("tiny", TINY, ids=lambda tiny: tiny.name)
@pytest.mark.parametrize("odd", [False, True])
def test_a_grid_has_a_size_that_needs_no_rounding(tiny: TinyModel, odd: bool) -> None:
    try:
        grid = tiny.geometry(odd=odd).grid
    except ModelError:
        pytest.skip("a model of one size")
    size = size_of_grid(tiny.family, tiny.full_config, grid)
    assert grid_of_size(tiny.family, tiny.full_config, size) == grid
    assert nearest_size(tiny.family, tiny.full_config, size) == size


@pytest.mark.parametrize(
    ("asked", "made"),
    [
        ((5, 128, 128), (5, 128, 128)),
        ((80, 480, 832), (81, 480, 832)),
        ((82, 480, 832), (81, 480, 832)),
        ((83, 480, 832), (81, 480, 832)),
        ((84, 480, 832), (85, 480, 832)),
        ((1, 479, 840), (1, 480, 832)),
        ((2, 489, 841), (1, 496, 848)),
        ((2, 1, 1), (1, 16, 16)),
    ],
)
def test_nearest_size(asked: tuple[int, int, int], made: tuple[int, int, int]) -> None:
    """Wan has patches of 2 x 2 latents, of 4 frames and 8 x 8 pixels each."""
    tiny = next(tiny for tiny in TINY if tiny.name == "wan")
    config = tiny.full_config | {"rope_max_seq_len": 1024}
    assert nearest_size(tiny.family, config, asked) == made


def test_frames_that_a_pipeline_pads_are_left_to_it() -> None:
    tiny = next(tiny for tiny in TINY if tiny.name == "cogvideox-1.5-i2v")
    size = (81, 64, 64)
    padded = grid_of_size(
        tiny.family, tiny.full_config, nearest_size(tiny.family, tiny.full_config, size)
    )
    assert padded is not None
    assert padded.frames == 11


def test_a_grid_that_no_size_has() -> None:
    tiny = next(tiny for tiny in TINY if tiny.name == "flux-dev")
    with pytest.raises(ModelError, match="give the size"):
        size_of_grid(tiny.family, tiny.full_config, Grid(3, 8, 8))
