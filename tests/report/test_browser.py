"""The page in a headless Chromium without a network. `show` itself asserts that nothing was
requested and nothing was complained of."""

from __future__ import annotations

import numpy as np
import pytest

from paro_trt.plan import Grid
from paro_trt.report import write_report
from paro_trt.report.maps import LEVELS, PictureMaker
from tests.support.plans import small_plan


@pytest.fixture
def path(plan, tmp_path):
    target = tmp_path / "report.html"
    write_report(plan, "some.paro.safetensors", 59_538, target)
    return target


def rows_of(page):
    return page.eval_on_selector_all(
        "#head-table tbody tr",
        "rows => rows.map(row => [...row.cells].map(c => c.innerText.trim()))",
    )


def percents(page, column):
    return [float(row[column].replace("\u202f", "").rstrip("%")) for row in rows_of(page)]


def test_everything_is_drawn(plan, path, show):
    with show(path) as shown:
        page = shown.page
        assert len(rows_of(page)) == 12
        assert page.locator("#heat td").count() == 4 * 12
        assert page.locator("#scatter circle").count() == 12 * plan.bins
        assert page.locator("#scatter .median").count() == 1
        assert page.locator("#siblings button").count() == 4
        for canvas in ("map-before", "map-after"):
            assert len(np.unique(shown.pixels(canvas).reshape(-1, 3), axis=0)) > 3


def test_pictures_have_the_colours_of_the_mask(fresh_seed, tmp_path, show):
    plan = small_plan(grid=Grid(4, 16, 16), layers=2, heads=2, bins=1, seed=fresh_seed)
    path = tmp_path / "report.html"
    write_report(plan, "plan", 1, path)
    maker = PictureMaker(plan)
    with show(path) as shown:
        layer, head = shown.page.evaluate("JSON.parse(document.getElementById('report-data')"
                                          ".textContent).pictures.first")  # fmt: skip
        levels = maker.pictures(plan.layers[layer]).after[0, head]
        image = shown.pixels("map-after").astype(int)
        scale = image.shape[1] / shown.page.evaluate(
            "document.getElementById('map-after').clientWidth"
        )
        left, top, right, bottom = (round(margin * scale) for margin in (46, 4, 6, 34))
        area = image[top : image.shape[0] - bottom, left : image.shape[1] - right]
        rows, columns = levels.shape
        middles = area[
            ((np.arange(rows) + 0.5) * area.shape[0] / rows).astype(int)[:, None],
            ((np.arange(columns) + 0.5) * area.shape[1] / columns).astype(int)[None, :],
        ]
        dark, light = (middles[levels == end].mean() for end in (LEVELS, 0))
        assert dark < 60 < 230 < light


def test_filters_by_layer_order_and_bin(plan, path, show):
    with show(path) as shown:
        page = shown.page
        page.select_option("#layer-choice", label="blocks.1.attn1")
        assert {row[0] for row in rows_of(page)} == {"blocks.1.attn1"}
        assert page.inner_text("#count") == "4 of 12 heads"
        assert page.locator("#heat td.off").count() == 4 * 8
        assert page.locator("#scatter circle.off").count() == 8 * plan.bins
        page.click("#filters button[type=reset]")
        page.locator("#count", has_text="12 of 12 heads").wait_for()

        order = plan.layers[0].heads[0].order
        wanted = sum(head.order == order for layer in plan.layers for head in layer.heads)
        page.select_option("#order-choice", label=f"{order} ({wanted})")
        assert [row[2] for row in rows_of(page)] == [order] * wanted
        page.click("#filters button[type=reset]")
        page.locator("#count", has_text="12 of 12 heads").wait_for()

        page.check("#bin-choice input[value='1']")
        errors = [head.predicted_error[1] for layer in plan.layers for head in layer.heads]
        assert percents(page, 5) == pytest.approx([100 * error for error in errors], abs=0.06)
        assert page.locator("#scatter circle").count() == 12


def test_sorts_by_a_column_both_ways(path, show):
    with show(path) as shown:
        page = shown.page
        title = page.locator("#head-table th[data-column=error]")
        title.locator("button").click()
        assert title.get_attribute("aria-sort") == "descending"
        assert percents(page, 5) == sorted(percents(page, 5), reverse=True)
        title.locator("button").click()
        assert title.get_attribute("aria-sort") == "ascending"
        assert percents(page, 5) == sorted(percents(page, 5))


def test_a_head_is_chosen_by_keyboard_and_by_pointer(path, show):
    with show(path) as shown:
        page = shown.page
        cells = page.locator("#heat .panel:nth-child(2) td")
        cells.nth(0).focus()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        assert page.inner_text("#head-facts h3") == "Head 1"
        assert "blocks.1.attn1" in page.inner_text("#siblings-title")
        assert cells.nth(5).get_attribute("aria-selected") == "true"
        page.wait_for_selector("#map-after[data-drawn='1-1--1']")
        page.locator("#scatter circle:not(.chosen)").last.click()
        assert page.locator("#scatter circle.chosen").count() == 2
        assert page.inner_text("#head-facts h3") != ""


def test_dark_light_and_paper(path, show):
    ground = "getComputedStyle(document.body).backgroundColor"
    with show(path, color_scheme="dark") as shown:
        page = shown.page
        dark = page.evaluate(ground)
        page.click("#theme")
        assert page.evaluate(ground) != dark
        page.click("#theme")
        assert page.evaluate(ground) == dark
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.evaluate("document.documentElement.dataset.theme") == "light"
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_hostile_names_run_nothing(hostile_plan, tmp_path, show):
    path = tmp_path / "report.html"
    write_report(hostile_plan, "plan", 1, path)
    with show(path) as shown:
        assert shown.page.title().startswith("</script>")
        assert shown.page.locator("img").count() == 0
        assert len(rows_of(shown.page)) == 12
        assert rows_of(shown.page)[0][0] == hostile_plan.layers[0].name


def test_without_script_cards_and_layers_remain(path, show):
    with show(path, java_script_enabled=False) as shown:
        assert shown.page.locator(".card").count() == 6
        assert shown.page.locator("#layers tbody tr").count() == 3


def test_a_narrow_screen_does_not_scroll_sideways(path, show):
    with show(path) as shown:
        shown.page.set_viewport_size({"width": 390, "height": 800})
        width = shown.page.evaluate("document.documentElement.scrollWidth")
        assert width <= 390
