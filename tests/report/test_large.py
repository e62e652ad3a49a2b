"""A plan of the size of Wan 2.1 14B at 720p: 40 layers x 40 heads x 2 bins, 591 x 1182 blocks."""

from __future__ import annotations

import secrets
from dataclasses import replace

import pytest

from paro_trt.plan import Grid
from paro_trt.report import write_report
from tests.support.plans import small_plan

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def wan_page(tmp_path_factory):
    """The page of a plan with random masks; all layers share the first's, to keep it quick."""
    seed = secrets.randbelow(2**31)
    print(f"{seed=}")
    one = small_plan(
        grid=Grid(21, 45, 80), heads=40, layers=1, block_q=128, density=0.25, seed=seed
    )
    layers = tuple(replace(one.layers[0], name=f"blocks.{i}.attn1") for i in range(40))
    path = tmp_path_factory.mktemp("wan") / "report.html"
    return write_report(replace(one, layers=layers), "wan.paro.safetensors", 56_000_000, path)


def test_page_stays_below_ten_megabytes(wan_page):
    print(f"{wan_page.bytes / 1e6:.1f} MB")
    assert wan_page.bytes < 10_000_000
    assert (wan_page.before.rows, wan_page.after.rows) == (48, 48)


def test_browser_shows_1600_heads(wan_page, show):
    with show(wan_page.path) as shown:
        page = shown.page
        assert page.locator("#heat td").count() == 4 * 1600
        assert page.locator("#head-table tbody tr").count() == 30
        page.click("#show-all")
        assert page.locator("#head-table tbody tr").count() == 1600
        page.select_option("#layer-choice", label="blocks.39.attn1")
        assert page.inner_text("#count") == "40 of 1600 heads"
