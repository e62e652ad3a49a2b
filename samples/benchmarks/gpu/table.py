"""The short table that the suite prints last."""

from __future__ import annotations

from collections.abc import Sequence

from .results import Row
from .shapes import DENSITIES
from .targets import Outcome


def rates_table(rates: dict[str, dict[str, float]]) -> list[str]:
    """A line a pipe."""
    lines = ["| pipe | rate | a clock and SM | MHz | spread |", "|---|---|---|---|---|"]
    for name, columns in rates.items():
        per_clock = f"{columns['per_clock_sm']:.1f}" if columns["per_clock_sm"] else ""
        mhz = f"{columns['mhz']:.0f}" if columns["mhz"] else ""
        rate = f"{columns['rate'] / 1e12:.2f} T/s"
        lines.append(f"| {name} | {rate} | {per_clock} | {mhz} | {columns['spread']:.1%} |")
    return lines


def attention_table(rows: Sequence[Row]) -> list[str]:
    """A line a shape and contender: milliseconds by density, with the speedup in brackets."""
    names = " | ".join(f"density {density:g}" for density in DENSITIES)
    lines = [f"| tokens x heads x D | contender | {names} |", "|---|---|" + "---|" * len(DENSITIES)]
    cells: dict[tuple[str, str], dict[float, Row]] = {}
    for row in rows:
        if row.ms is not None and row.density is not None and row.bits is not None:
            shape = f"{row.tokens:,} x {row.heads} x {row.head_dim}"
            blocks = "" if row.block_k in (None, 64) else f"block_k {row.block_k}"
            contender = " ".join(
                filter(None, (row.contender, row.kernel, f"{row.bits} bits", blocks))
            )
            # The first: groups come in order of importance, with baselines in each.
            cells.setdefault((shape, contender), {}).setdefault(row.density, row)
    for (shape, contender), by_density in cells.items():
        values = [_time(by_density.get(density)) for density in DENSITIES]
        lines.append(f"| {shape} | {contender} | {' | '.join(values)} |")
    return lines


def left_out(rows: Sequence[Row]) -> list[str]:
    """Contenders without a time, each once, and why."""
    notes = {(row.contender, row.note): None for row in rows if row.ms is None}
    return [f"left out: {name}: {note}" for name, note in notes]


def targets_table(outcomes: Sequence[Outcome]) -> list[str]:
    """docs/design.md, section 14, a line a target."""
    lines = ["| target | wanted | measured | |", "|---|---|---|---|"]
    for outcome in outcomes:
        sign = ">=" if outcome.target.at_least else "<="
        value = "" if outcome.value is None else f"{outcome.value:.3g}"
        wanted = f"{sign} {outcome.target.wanted:g}"
        lines.append(f"| {outcome.target.what} | {wanted} | {value} | {outcome.verdict} |")
    return lines


def _time(row: Row | None) -> str:
    if row is None or row.ms is None:
        return ""
    speedup = "" if row.speedup is None else f" ({row.speedup:.2f}x)"
    unsteady = " !" if row.spread is not None and row.spread > 0.05 else ""
    return f"{row.ms:.3g}{speedup}{unsteady}"
