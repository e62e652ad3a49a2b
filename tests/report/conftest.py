"""Plans to report, and a headless Chromium that refuses the network."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs
from PIL import Image

from paro_trt.plan import Grid, ParoPlan
from tests.support.plans import small_plan

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
HOSTILE = "</script><script>document.title='taken'</script><img src=x onerror=alert(1)>\"'&{{7*7}}"
FREE_TEXT = f"{HOSTILE}\n<!-- \x00 \u202e --> <script>"


@pytest.fixture
def plan(fresh_seed: int) -> ParoPlan:
    """Three layers of four heads, with all figures that a page can draw."""
    made = small_plan(grid=Grid(4, 16, 16), layers=3, heads=4, seed=fresh_seed)
    measured = {
        "heldout_error": 0.0816,
        "heldout_error.blocks.1.attn1": 0.0417,
        "attention_share": 0.6,
        "attention_speedup": 3.0,
        "model_speedup": 1.0 / (0.4 + 0.2),
        "peak_of_something": 12.5,
    }
    return replace(made, calibration=structs.replace(made.calibration, measured=measured))


@pytest.fixture
def hostile_plan(plan: ParoPlan) -> ParoPlan:
    """The same plan with markup in every string that a plan may choose."""
    names = tuple(f"{i}{HOSTILE}" for i in range(len(plan.order_names)))
    layers = tuple(
        replace(
            layer,
            name=f"{layer.name}{HOSTILE}",
            bits_reason=FREE_TEXT,
            heads=tuple(
                structs.replace(head, order=names[row])
                for head, row in zip(layer.heads, layer.head_order, strict=True)
            ),
        )
        for layer in plan.layers
    )
    calibration = structs.replace(
        plan.calibration,
        prompts=(FREE_TEXT,),
        notes=(FREE_TEXT,),
        order_metric=HOSTILE,
        mask_metric=HOSTILE,
        tool_version=HOSTILE,
        measured={**plan.calibration.measured, HOSTILE: 1.0},
    )
    model = structs.replace(plan.model, class_name=HOSTILE)
    return replace(plan, order_names=names, layers=layers, calibration=calibration, model=model)


@dataclass
class Shown:
    """A page in the browser and what it complained of or asked for."""

    page: Any
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def settle(self) -> None:
        """Wait until the pictures of the chosen head are drawn."""
        self.page.wait_for_selector("[data-ready]")
        for canvas in ("map-before", "map-after"):
            self.page.wait_for_selector(f"#{canvas}[data-drawn]")

    def pixels(self, canvas: str) -> np.ndarray:
        """RGB of a canvas, [height, width, 3]."""
        url = self.page.evaluate("id => document.getElementById(id).toDataURL()", canvas)
        with Image.open(BytesIO(base64.b64decode(url.split(",")[1]))) as image:
            return np.asarray(image.convert("RGB"))


Show = Callable[..., AbstractContextManager[Shown]]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A headless Chromium, or a skip that says what is missing."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if program is None:
        pytest.skip(f"no Chromium found (looked for {', '.join(CHROMIUM)})")
    with playwright.sync_playwright() as driver:
        # Chromium refuses its sandbox to root, as whom containers run; the page is our own.
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def show(chromium: Any) -> Show:
    """Open a file without a network; afterwards no request and no complaint may have come."""

    @contextmanager
    def shown(path: Path, **options: Any) -> Iterator[Shown]:
        context = chromium.new_context(
            offline=True, viewport={"width": 1280, "height": 900}, **options
        )
        page = context.new_page()
        result = Shown(page)
        page.on("request", lambda request: result.requests.append(request.url))
        page.on("console", lambda message: result.complaints.append(message.text))
        page.on("pageerror", lambda error: result.complaints.append(str(error)))
        page.on("dialog", lambda dialog: (result.complaints.append("a dialog"), dialog.dismiss()))
        page.goto(path.as_uri())
        if options.get("java_script_enabled", True):
            result.settle()
        yield result
        context.close()
        assert result.complaints == []
        assert result.requests == [path.as_uri()]

    return shown
