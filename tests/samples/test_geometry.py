"""Released models at their true sizes, without weights: tokens, orders, masks, plans, forecast."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from paro_trt.calibration.orders import candidate_orders
from paro_trt.families.registry import FAMILIES
from paro_trt.op.spec import block_count, mask_words
from samples.benchmarks.geometry.forecast import attention_operations, dense_operations, forecast
from samples.benchmarks.geometry.page import Row, geometry_cells, page_text
from samples.benchmarks.geometry.releases import RELEASES, Pixels, Release, supported_releases
from samples.benchmarks.geometry.true_size import build_layer

ROOT = Path(__file__).resolve().parents[2]
MOST_MEMORY = 4e9
MOST_SECONDS = 60.0
"""For one layer."""

SIZES = [(release, size) for release in supported_releases() for size in release.sizes]
SMALL_VIDEO = next(entry for entry in SIZES if entry[0].name == "Wan 2.1 1.3B")

MEASURE = """
import json, resource, sys
from samples.benchmarks.geometry.releases import RELEASES, Pixels
from samples.benchmarks.geometry.true_size import build_layer
name, seed, *size = sys.argv[1:]
(release,) = [entry for entry in RELEASES if entry.name == name]
site = release.family.sites(release.full_config())[0]
built = build_layer(release.geometry(Pixels(*map(int, size))), site, int(seed))
print(json.dumps({
    "seconds": built.seconds,
    "bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    "density": built.plan.density(),
    "mask": list(built.plan.layers[0].block_mask.shape),
}))
"""


def name_of(entry: tuple[Release, Pixels]) -> str:
    return f"{entry[0].name}-{'x'.join(map(str, entry[1]))}"


def test_every_family_has_a_release() -> None:
    known = {release.class_name for release in RELEASES}
    assert [family.name for family in FAMILIES if not known & set(family.class_names)] == []


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        # Of the models' papers and cards.
        ("Wan 2.1 14B, Wan 2.2 A14B (each expert)", [32_760, 75_600]),
        ("Wan 2.2 TI2V 5B", [27_280]),
        ("HunyuanVideo", [32_640 + 256, 118_800 + 256]),
        ("CogVideoX 5B", [17_550 + 226]),
        ("CogVideoX1.5 5B", [44_880 + 226]),
        ("Flux.1", [4_096 + 512]),
        ("Mochi 1", [44_520 + 256]),
    ],
)
def test_tokens_of_known_models(name: str, tokens: list[int]) -> None:
    (release,) = (entry for entry in RELEASES if entry.name == name)
    assert [release.geometry(size).tokens for size in release.sizes] == tokens


@pytest.mark.parametrize("entry", SIZES, ids=name_of)
def test_orders_at_full_size(entry: tuple[Release, Pixels]) -> None:
    """Permutations that leave the text where the model has it; two of each grid's are built."""
    geometry = entry[0].geometry(entry[1])
    text = geometry.text
    first = {"first": 0, "last": geometry.grid.tokens, "none": 0}[text.position.value]
    for order in candidate_orders(geometry.grid, text, ("whf", "hilbert")):
        np.testing.assert_array_equal(np.sort(order.permutation), np.arange(geometry.tokens))
        written = order.permutation[first : first + text.count]
        np.testing.assert_array_equal(written, np.arange(first, first + text.count))


def measured(entry: tuple[Release, Pixels], seed: int) -> dict:
    """A layer's plan, built in a process whose memory is its alone."""
    release, size = entry
    words = [
        sys.executable,
        "-c",
        MEASURE,
        release.name,
        seed,
        *size,
    ]
    done = subprocess.run(
        list(map(str, words)), capture_output=True, text=True, timeout=500, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def assert_within_limits(entry: tuple[Release, Pixels], seed: int) -> None:
    found = measured(entry, seed)
    assert found["bytes"] < MOST_MEMORY
    assert found["seconds"] < MOST_SECONDS
    assert found["density"] == pytest.approx(0.3, abs=1e-3)
    release, size = entry
    tokens, site = release.geometry(size).tokens, release.family.sites(release.full_config())[0]
    words = mask_words(block_count(tokens, 64))
    assert found["mask"] == [2, site.heads, block_count(tokens, 128), words]


@pytest.mark.long
def test_a_layer_of_a_small_video_model(fresh_seed: int) -> None:
    assert_within_limits(SMALL_VIDEO, fresh_seed)


@pytest.mark.long
@pytest.mark.parametrize("entry", SIZES, ids=name_of)
def test_a_layer_of_every_model(entry: tuple[Release, Pixels], fresh_seed: int) -> None:
    assert_within_limits(entry, fresh_seed)


def test_schedule_has_every_tile_once(fresh_seed: int) -> None:
    release, size = next(entry for entry in SIZES if entry[0].name == "Flux.1")
    site = release.family.sites(release.full_config())[0]
    built = build_layer(release.geometry(size), site, fresh_seed)
    tiles = np.arange(site.heads * built.plan.query_blocks)
    for row in built.tile_order:
        np.testing.assert_array_equal(np.sort(row), tiles)


def test_operations_are_those_of_the_layers() -> None:
    """Wan's blocks, counted by hand: what torch counts in addition is below 1 %."""
    release, size = SMALL_VIDEO
    geometry, config = release.geometry(size), release.full_config()
    sites = release.family.sites(config)
    width = config["num_attention_heads"] * config["attention_head_dim"]
    tokens, text = geometry.tokens, 512
    projections = 6 * width**2 + 2 * width * config["ffn_dim"]
    of_block = 2 * tokens * projections + 2 * text * 2 * width**2 + 4 * tokens * text * width
    by_hand = len(sites) * of_block + attention_operations(geometry, sites)
    assert dense_operations(release, geometry) == pytest.approx(by_hand, rel=0.01)


def test_forecast_is_amdahls_law() -> None:
    release, size = SMALL_VIDEO
    expected = forecast(release, size, 0.25)
    sites = release.family.sites(release.full_config())
    share = attention_operations(release.geometry(size), sites) / expected.total
    assert expected.attention_share == pytest.approx(share)
    keys_met = 0.25 + 512 / 32_760
    assert expected.attention_speedup == pytest.approx(1 / keys_met)
    assert expected.model_speedup == pytest.approx(1 / (1 - share + share * keys_met))


def test_page_has_a_row_a_size(fresh_seed: int) -> None:
    release, size = SMALL_VIDEO
    expected = {0.3: forecast(release, size, 0.3)}
    row = Row(release, size, release.geometry(size), 1e6 * (fresh_seed % 90), expected)
    text = page_text([row, row], "2026-01-02")
    line = f"| {' | '.join(geometry_cells(row))} | 70% | 1.92 |"
    assert text.count(line) == 2
    assert "2026-01-02" in text
    assert "$" not in text


def test_kept_page_has_the_geometry_of_its_models() -> None:
    """Rows of docs/families.md, but for the plan's size, which is made up."""
    rows = [re.split(r" *\| *", line)[1:] for line in (ROOT / "docs" / "families.md").open()]
    kept = {(cells[0], cells[1]): cells[2:7] for cells in rows if len(cells) > 9}
    found = 0
    for release, size in SIZES:
        row = Row(release, size, release.geometry(size), 0.0, {})
        name, pixels, *cells = geometry_cells(row)[:7]
        if (name, pixels) in kept:
            assert kept[name, pixels] == cells
            found += 1
    assert found >= 20
