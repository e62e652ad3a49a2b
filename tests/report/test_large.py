"""A plan of the size of Wan 2.1 14B at 720p: 40 layers x 40 heads x 2 bins, 591 x 1182 blocks."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from paro_trt.plan import Grid
from paro_trt.report import write_report
from paro_trt.testing.plans import small_plan


@pytest.fixture
def wan(fresh_seed):
    """Random masks; all layers share those of the first, to keep the test small."""
    one = small_plan(
        grid=Grid(21, 45, 80), heads=40, layers=1, block_q=128, density=0.25, seed=fresh_seed
    )
    layers = tuple(replace(one.layers[0], name=f"blocks.{i}.attn1") for i in range(40))
    return replace(one, layers=layers)


def test_page_stays_below_ten_megabytes_in_seconds(wan, tmp_path, show):
    path = tmp_path / "report.html"
    started = time.perf_counter()
    summary = write_report(wan, "wan.paro.safetensors", 56_000_000, path)
    print(f"{summary.bytes / 1e6:.1f} MB in {time.perf_counter() - started:.1f} s")
    assert summary.bytes < 10_000_000
    assert summary.after.rows == 48
    with show(path) as shown:
        page = shown.page
        assert page.locator("#heat td").count() == 4 * 1600
        assert page.locator("#head-table tbody tr").count() == 30
        page.click("#show-all")
        assert page.locator("#head-table tbody tr").count() == 1600
        page.select_option("#layer-choice", label="blocks.39.attn1")
        assert page.inner_text("#count") == "40 of 1600 heads"
