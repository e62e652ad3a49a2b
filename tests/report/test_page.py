"""The page as text: what it holds, what it escapes, what it refuses."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser

import msgspec
import pytest

from paro_trt.errors import ParoError, PlanError
from paro_trt.plan import Grid, plan_mix
from paro_trt.report import page, write_report
from paro_trt.report.text import MAX_SHOWN, percent, short_names
from tests.support.plans import small_plan

from .conftest import FREE_TEXT, HOSTILE


class Outline(HTMLParser):
    """Elements, attributes and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text.append(data)


def written(plan, tmp_path, name="some.paro.safetensors"):
    path = tmp_path / "report.html"
    summary = write_report(plan, name, 59_538, path)
    assert summary.bytes == path.stat().st_size
    return path.read_text(encoding="utf-8")


def document_of(text):
    found = re.search(
        r'<script type="application/json" id="report-data">(.*?)</script>', text, re.S
    )
    return json.loads(found[1])


def test_the_mix_of_a_plan_of_version_2(plan, tmp_path):
    mixed = small_plan(
        pool_dropped=True, density=0.4, fine=0.5, corrected=(1,), dynamic=1, grid=Grid(2, 16, 16)
    )
    text = "".join(Outline(written(mixed, tmp_path)).text)
    for layers in (None, mixed.layers[:1], mixed.layers[1:]):
        mix = plan_mix(mixed, layers)
        assert f"{percent(mix.exact)} / {percent(mix.fine)} / {percent(mix.coarse)}" in text
    for words in ("0 to 1 a query block", "2 of 4", "1 of 2 heads corrected", "keys a query meets"):
        assert words in text
    assert "exact / fine / coarse" not in written(plan, tmp_path)


def test_smoothed_layers(plan, tmp_path):
    smoothed = small_plan(heads=4, kv_heads=2, qk_bits=4, rotated=(1,))
    page = written(smoothed, tmp_path)
    text = "".join(Outline(page).text)
    assert text.count("smoothed, 1 of 2 heads rotated") == len(smoothed.layers)
    assert "in every layer, 4-bit QK smoothed" in text
    assert "exact / fine / coarse" not in page
    assert "smoothed" not in written(plan, tmp_path)


def test_measured_effects_and_shares_of_time(plan, tmp_path):
    names = [layer.name for layer in plan.layers]
    measured = {
        "effect." + names[0]: 0.0123, "time_share." + names[0]: 0.654,
        "effect." + names[1]: 0.0456,
    }  # fmt: skip
    calibration = msgspec.structs.replace(plan.calibration, measured=measured)
    shown = written(dataclasses.replace(plan, calibration=calibration), tmp_path)
    text = "".join(Outline(shown).text)
    for words in ("effect on the prediction", "what was chosen", "1.2", "65.4", "4.6"):
        assert words in text
    # The longest bar is the largest effect.
    assert f'width="{100 * 0.0123 / 0.0456}%"' in shown
    assert "effect on the prediction" not in written(plan, tmp_path)


def test_same_plan_gives_the_same_bytes(plan, tmp_path):
    assert written(plan, tmp_path) == written(plan, tmp_path)


def test_figures_are_those_of_the_plan(plan, tmp_path):
    text = written(plan, tmp_path)
    document = document_of(text)
    for shown, layer in zip(document["layers"], plan.layers, strict=True):
        assert shown["name"] == layer.name
        names = [document["orders"][number]["name"] for number in shown["order"]]
        assert names == [head.order for head in layer.heads]
        for key, figure in (("density", "density"), ("mass", "mass"), ("error", "predicted_error")):
            for values, head in zip(shown[key], layer.heads, strict=True):
                assert values == pytest.approx(getattr(head, figure), rel=1e-4)
    words = "".join(Outline(text).text).replace("\u202f", "")
    for figure in (f"{100 * plan.density():.1f}%", "8.2%", "4.2%", "1.67", "59.5 kB", "1,024"):
        assert figure in words


def test_hostile_strings_stay_text(plan, hostile_plan, tmp_path):
    honest = Outline(written(plan, tmp_path))
    text = written(hostile_plan, tmp_path, name=HOSTILE)
    hostile = Outline(text)
    # Layers that differ in their markup keep long names, so only the kinds of elements compare.
    assert set(hostile.tags) == set(honest.tags)
    assert hostile.tags.count("script") == honest.tags.count("script")
    assert not [name for name, _ in hostile.attributes if name.startswith("on")]
    assert "<img" not in text
    assert "49" not in re.findall(r"&#34;&#39;&amp;(\d+)", text)  # a template within a template
    assert document_of(text)["layers"][0]["name"] == hostile_plan.layers[0].name
    assert FREE_TEXT[:40] in "".join(hostile.text)


def test_no_address_of_a_network(plan, tmp_path):
    outline = Outline(written(plan, tmp_path))
    linked = [value for name, value in outline.attributes if name in ("href", "src", "action")]
    assert linked
    assert all(value.startswith(("#", "data:")) for value in linked)
    policy = next(value for _, value in outline.attributes if "default-src" in (value or ""))
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize(
    "measured",
    [
        {"attention_share": 7.0, "attention_speedup": 2.0, "model_speedup": 2.0},
        {"attention_share": 0.5, "attention_speedup": 0.0, "model_speedup": -1.0},
        {"attention_share": 0.5},
        {"heldout_error": -1.0, "density": 0.123},
        {},
    ],
)
def test_senseless_or_missing_figures_are_not_drawn(plan, tmp_path, measured):
    calibration = msgspec.structs.replace(plan.calibration, measured=measured)
    text = written(dataclasses.replace(plan, calibration=calibration), tmp_path)
    assert "there is no forecast" in text
    assert document_of(text)["heldout"] is None
    assert all(f"<bdi>{name}</bdi>" in text for name in measured)


def test_long_texts_are_cut_and_counted(plan, tmp_path):
    prompts = tuple(f"{index} " + "x" * 10_000 for index in range(500))
    calibration = msgspec.structs.replace(plan.calibration, prompts=prompts)
    text = written(dataclasses.replace(plan, calibration=calibration), tmp_path)
    assert "x" * (MAX_SHOWN - 4) in text
    assert "x" * (MAX_SHOWN + 1) not in text
    assert "and 488 more" in text


def test_a_plan_too_large_for_a_page_is_refused(monkeypatch, tmp_path):
    plan = small_plan(layers=3, heads=4, bins=2)
    monkeypatch.setattr(page, "MAX_HEAD_BINS", 24)
    written(plan, tmp_path)
    monkeypatch.setattr(page, "MAX_HEAD_BINS", 23)
    (tmp_path / "report.html").unlink()
    with pytest.raises(
        PlanError, match=r"some.paro.safetensors: .*at most 23 heads x bins.*got 24.*inspect"
    ):
        written(plan, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_directory_is_an_error(plan, tmp_path):
    with pytest.raises(ParoError, match="directory"):
        write_report(plan, "plan", 1, tmp_path / "none" / "report.html")


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["blocks.0.attn1", "blocks.11.attn1"], ["0", "11"]),
        (["double.0.attn", "single.0.attn", "single.1.attn"], ["double.0", "single.0", "single.1"]),
        (["blocks.0.attn1"], ["blocks.0.attn1"]),
        (["a.b", "a.b.c"], ["a.b", "a.b.c"]),
    ],
)
def test_short_names(names, short):
    assert short_names(names) == short
