"""Tables of the attention benchmark's rows: all figures, or times by density."""

from __future__ import annotations

from collections.abc import Sequence

from .contenders import label
from .results import Row

SHAPE_COLUMNS = ("tokens", "D", "threads", "contender")
FIGURE_COLUMNS = (
    "density", "ms", "spread", "speedup", "by CPU", "GFLOP/s", "of peak", "stage 1",
)  # fmt: skip


def cells(row: Row) -> list[str]:
    """Values of SHAPE_COLUMNS and FIGURE_COLUMNS; empty where a figure was not measured.

    A CPU has one kernel, so it is no column.
    """

    def shown(value: float | None, form: str, after: str = "") -> str:
        return "" if value is None else f"{value:{form}}{after}"

    return [
        f"{row.tokens:,}",
        str(row.head_dim),
        shown(row.threads, "d"),
        label(row.contender, "", row.precision),
        shown(row.reached_density, ".3f"),
        shown(row.ms, ".1f"),
        shown(row.spread, ".0%", "" if row.steady else " !"),
        shown(row.speedup, ".2f", "x"),
        shown(row.processor_speedup, ".2f", "x"),
        shown(None if row.tops is None else row.tops * 1e3, ".0f"),
        shown(row.peak_share, ".0%"),
        shown(row.stage1_share, ".1%"),
    ]


def by_density(rows: Sequence[Row], densities: Sequence[float]) -> list[str]:
    """Markdown, a line a shape and contender: milliseconds, with the speedup in brackets."""
    names = " | ".join(f"density {density:g}" for density in densities)
    lines = [f"| tokens x heads x D | contender | {names} |", "|---|---|" + "---|" * len(densities)]
    found: dict[tuple[str, str], dict[float, Row]] = {}
    for row in rows:
        if row.ms is not None and row.density is not None:
            shape = f"{row.tokens:,} x {row.heads} x {row.head_dim}"
            name = label(row.contender, row.kernel, row.precision)
            if row.block_k not in (None, 64):
                name += f" block_k {row.block_k}"
            # The first: groups come in order of importance, with baselines in each.
            found.setdefault((shape, name), {}).setdefault(row.density, row)
    for (shape, name), of_density in found.items():
        values = [_time(of_density.get(density)) for density in densities]
        lines.append(f"| {shape} | {name} | {' | '.join(values)} |")
    return lines


def left_out(rows: Sequence[Row]) -> list[str]:
    """Contenders without a time, each once, and why."""
    notes = {(row.contender, row.note): None for row in rows if row.ms is None}
    return [f"left out: {name}: {note}" for name, note in notes]


def _time(row: Row | None) -> str:
    if row is None or row.ms is None:
        return ""
    speedup = "" if row.speedup is None else f" ({row.speedup:.2f}x)"
    return f"{row.ms:.3g}{speedup}{'' if row.steady else ' !'}"
