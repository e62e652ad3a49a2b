"""docs/families.md: the families at the sizes people run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from paro_trt.calibration.forecast import WORTHWHILE_SPEEDUP
from paro_trt.families.base import Geometry
from paro_trt.op.spec import block_count, mask_words

from .forecast import Forecast
from .releases import Pixels, Release
from .true_size import SETTINGS

COMMAND = "python -m samples.benchmarks.geometry"
TEMPLATE = Path(__file__).with_name("families.md.txt")
MEGABYTE = 1e6


@dataclass(frozen=True)
class Row:
    """One model at one size.

    Args:
        release: the model.
        size: in pixels.
        geometry: its tokens.
        plan_bytes: of a whole plan file with made-up masks.
        expected: by density, the plan's first.
    """

    release: Release
    size: Pixels
    geometry: Geometry
    plan_bytes: float
    expected: dict[float, Forecast]


def page_text(rows: Sequence[Row], today: str) -> str:
    """The whole file."""
    density, first = next(iter(rows[0].expected.items()))
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        command=COMMAND,
        today=today,
        density=f"{density:g}",
        attention_speed=f"{first.attention_speedup:.1f}",
        worthwhile=WORTHWHILE_SPEEDUP,
        bins=SETTINGS.bins,
        block_q=SETTINGS.block_q,
        block_k=SETTINGS.block_k,
        table="\n".join(_table(rows)),
    )


def _table(rows: Sequence[Row]) -> list[str]:
    gains = [f"gain at {density:g}" for density in rows[0].expected]
    columns = [
        "model", "frames x height x width", "grid", "tokens", "of them text",
        "layers x heads x channels", "blocks", "plan, MB", "share", *gains,
    ]  # fmt: skip
    lines = [_line(columns), _line(["---"] * 3 + ["--:"] * (len(columns) - 3))]
    return lines + [_line([*geometry_cells(row), *_gain_cells(row)]) for row in rows]


def geometry_cells(row: Row) -> list[str]:
    """What follows from the model's configuration alone, and the plan's size."""
    geometry, sites = row.geometry, row.release.family.sites(row.release.full_config())
    query_blocks = block_count(geometry.tokens, SETTINGS.block_q)
    key_blocks = block_count(geometry.tokens, SETTINGS.block_k)
    rows_of_words = SETTINGS.bins * sum(site.heads for site in sites) * query_blocks
    packed = rows_of_words * mask_words(key_blocks) * 4
    grid = (geometry.grid.frames, geometry.grid.height, geometry.grid.width)
    return [
        row.release.name,
        " x ".join(map(str, row.size)),
        " x ".join(map(str, grid)),
        f"{geometry.tokens:,}",
        str(geometry.text.count),
        f"{len(sites)} x {sites[0].heads} x {sites[0].head_dim}",
        f"{query_blocks} x {key_blocks}",
        f"{row.plan_bytes / MEGABYTE:.1f} ({packed / MEGABYTE:.1f})",
    ]


def _gain_cells(row: Row) -> list[str]:
    expected = list(row.expected.values())
    gains = [entry.model_speedup for entry in expected]
    return [
        f"{expected[0].attention_share:.0%}",
        *(f"{gain:.2f}" + ("" if gain >= WORTHWHILE_SPEEDUP else ", hardly") for gain in gains),
    ]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
