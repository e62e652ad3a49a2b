"""A plan as one self-contained HTML page."""

from __future__ import annotations

import base64
import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from .. import __version__
from ..errors import PlanError
from ..files import atomic_write
from ..plan import ParoPlan
from .headline import cards, facts
from .heads import heads_document
from .layers import largest_error, layer_rows
from .maps import LEVELS, PictureMaker, PictureSize
from .measured import measured_figures
from .schedule import schedule_bins
from .text import clipped, first_of, percent

MAX_HEAD_BINS = 16_384
"""Heads x bins of a page; five times those of Wan 2.1 14B with two bins."""

_ASSETS = Path(__file__).parent / "page"
_SCRIPTS = (
    "elements", "data", "colours", "state", "filters", "heat", "table", "canvas", "maps",
    "tradeoff", "main",
)  # fmt: skip
_LINES_SHOWN = 12


@dataclass(frozen=True)
class ReportSummary:
    """What was written.

    Args:
        path: the page.
        bytes: its size.
        before: size of a picture in the model's own token order.
        after: size of a picture in a head's order.
    """

    path: Path
    bytes: int
    before: PictureSize
    after: PictureSize


def write_report(plan: ParoPlan, name: str, plan_bytes: int, path: Path) -> ReportSummary:
    """Write the report of a plan. The same plan gives the same bytes; a failure leaves no part.

    Wan 2.1 14B at 720p with two bins takes some seconds on two cores.

    Args:
        plan: what to report.
        name: what the page calls it, such as its file's name.
        plan_bytes: size of its file.
        path: the page; its directory must exist.

    Raises:
        PlanError: the plan has more heads than a page can show.
        ParoError: the file cannot be written.
    """
    _require_showable(plan, name)
    maker = PictureMaker(plan)
    page = _render(plan, name, plan_bytes, maker).encode()
    with atomic_write(path) as file:
        file.write(page)
    return ReportSummary(path, len(page), maker.before, maker.after)


def _require_showable(plan: ParoPlan, name: str) -> None:
    shown = plan.bins * sum(len(layer.heads) for layer in plan.layers)
    if shown > MAX_HEAD_BINS:
        raise PlanError(
            name,
            expected=f"at most {MAX_HEAD_BINS} heads x bins, which one page can show",
            actual=f"{shown}",
            remedy="read it with paro-trt inspect --heads or --json",
        )


def _render(plan: ParoPlan, name: str, plan_bytes: int, maker: PictureMaker) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_ASSETS),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    measured, bins = measured_figures(plan), schedule_bins(plan)
    layers, (pictures, telling) = layer_rows(plan, measured), _draw(plan, maker)
    style, script = _asset("style.css"), "\n".join(_asset(f"{part}.js") for part in _SCRIPTS)
    document = {**heads_document(plan), "pictures": _geometry(plan, maker, telling)}
    return environment.get_template("report.html.j2").render(
        title=f"{plan.model.class_name}: PARO plan",
        name=clipped(name),
        plan=plan,
        content_hash=plan.content_hash(),
        cards=cards(plan, bins, measured, plan_bytes),
        facts=facts(plan),
        bins=bins,
        layers=layers,
        largest_error=largest_error(layers),
        largest_effect=max(measured.effects.values(), default=0.0) or 1.0,
        measured=measured,
        prompts=first_of(plan.calibration.prompts, _LINES_SHOWN),
        notes=first_of(plan.calibration.notes, _LINES_SHOWN),
        document=document,
        pictures=pictures,
        maker=maker,
        style=style,
        script=script,
        style_hash=_csp_hash(style),
        script_hash=_csp_hash(script),
        version=__version__,
    )


def _draw(plan: ParoPlan, maker: PictureMaker) -> tuple[list[str], list[NDArray[np.float64]]]:
    """For each layer its compressed pictures in base64, and how much each head shows [H]."""
    packed, telling = [], []
    for layer in plan.layers:
        # Products this small gain nothing from threads. On a busy machine waiting threads are
        # slow: 25 s instead of 5 s at Wan's size while two other programs ran.
        with threadpool_limits(1, user_api="blas"):
            pictures = maker.pictures(layer)
        packed.append(base64.b64encode(zlib.compress(pictures.packed())).decode())
        telling.append(pictures.telling())
    return packed, telling


def _geometry(
    plan: ParoPlan, maker: PictureMaker, telling: list[NDArray[np.float64]]
) -> dict[str, Any]:
    """How to read the packed pictures, and which head to show first."""
    first = int(np.argmax([of_layer.max() for of_layer in telling]))
    grid, text = plan.grid, plan.text
    return {
        "levels": LEVELS,
        "before": [maker.before.rows, maker.before.columns],
        "after": [maker.after.rows, maker.after.columns],
        "tokens": plan.tokens,
        "blocks": [plan.query_blocks, plan.key_blocks],
        "frames": grid.frames,
        "frameTokens": grid.height * grid.width,
        "firstVisual": text.count if text.position.value == "first" else 0,
        "first": [first, int(np.argmax(telling[first]))],
    }


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def _csp_hash(content: str) -> str:
    """A source expression for the page's Content-Security-Policy, which allows nothing else."""
    digest = hashlib.sha256(content.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
