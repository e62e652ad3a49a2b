"""The GPU targets of docs/design.md, section 14, against rows of the attention benchmark."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from paro_trt.bench.results import Row

from .shapes import COGVIDEOX, WAN_480P, WAN_720P, Layer

HOST_CALL = "PARO, host time"
"""Contender of the row that has the time of queueing one call."""

SPARSE = 0.25
BLOCK_K = 64
WARP, WARPGROUP = "mma.sync", "wgmma"


@dataclass(frozen=True)
class Target:
    """One line of the table.

    measured: from all rows; None where the rows for it are missing. at_least: whether larger is
    better.
    """

    what: str
    wanted: float
    at_least: bool
    measured: Callable[[Sequence[Row]], float | None]


@dataclass(frozen=True)
class Outcome:
    """A target and what was measured."""

    target: Target
    value: float | None

    @property
    def verdict(self) -> str:
        """met, missed or not measured."""
        if self.value is None:
            return "not measured"
        wanted = self.target.wanted
        met = self.value >= wanted if self.target.at_least else self.value <= wanted
        return "met" if met else "missed"


def targets() -> list[Target]:
    """All of them."""
    found = []
    for kernel, dense, sparse in ((WARP, 0.7, 2.6), (WARPGROUP, 1.3, 4.8)):
        for shape in (COGVIDEOX, WAN_480P):
            for density, wanted in ((1.0, dense), (SPARSE, sparse)):
                found.append(_speedup_target(shape, kernel, density, wanted))
    for kernel in (WARP, WARPGROUP):
        found += [_efficiency_target(shape, kernel) for shape in (WAN_480P, WAN_720P)]
    for shape in (COGVIDEOX, WAN_480P):
        found.append(_stage1_target("share of the time", 0.05, False, shape, "stage1_share"))
        found.append(_stage1_target("of copy rate", 0.85, True, shape, "stage1_copy_share"))
    found.append(Target("host time of one call, launches included, us", 10.0, False, _host_micros))
    return found


def outcomes(rows: Sequence[Row]) -> list[Outcome]:
    """Every target, held against rows."""
    return [Outcome(target, target.measured(rows)) for target in targets()]


def find(rows: Sequence[Row], shape: Layer, kernel: str, density: float) -> Row | None:
    """Our 8-bit row of a shape, kernel ("" for the chosen one) and density, with default blocks."""
    matching = [
        row
        for row in rows
        if (row.tokens, row.heads, row.head_dim) == (shape.tokens, shape.heads, shape.head_dim)
        and row.contender == "PARO"
        and (row.precision, row.block_k, row.density) == ("int8", BLOCK_K, density)
        and row.kernel.startswith(kernel)
        and row.ms is not None
    ]
    # The chosen kernel of a group comes before the other one.
    return matching[0] if matching else None


def _speedup_target(shape: Layer, kernel: str, density: float, wanted: float) -> Target:
    def measured(rows: Sequence[Row]) -> float | None:
        row = find(rows, shape, kernel, density)
        return None if row is None else row.speedup

    what = f"{kernel}, {shape.name}, density {density:g}, times fastest SDPA"
    return Target(what, wanted, True, measured)


def _efficiency_target(shape: Layer, kernel: str) -> Target:
    def measured(rows: Sequence[Row]) -> float | None:
        dense, sparse = (find(rows, shape, kernel, density) for density in (1.0, SPARSE))
        if dense is None or sparse is None or not dense.tops or not sparse.tops:
            return None
        return sparse.tops / dense.tops

    return Target(f"{kernel}, {shape.name}, TOPS at {SPARSE:g} of own dense", 0.92, True, measured)


def _stage1_target(what: str, wanted: float, at_least: bool, shape: Layer, column: str) -> Target:
    def measured(rows: Sequence[Row]) -> float | None:
        row = find(rows, shape, "", SPARSE)
        return None if row is None else getattr(row, column)

    return Target(f"stage 1, {shape.name}, {what}", wanted, at_least, measured)


def _host_micros(rows: Sequence[Row]) -> float | None:
    found = [row.ms for row in rows if row.contender == HOST_CALL and row.ms is not None]
    return found[0] * 1e3 if found else None


def targets_table(outcomes: Sequence[Outcome]) -> list[str]:
    """docs/design.md, section 14, a line a target."""
    lines = ["| target | wanted | measured | |", "|---|---|---|---|"]
    for outcome in outcomes:
        sign = ">=" if outcome.target.at_least else "<="
        value = "" if outcome.value is None else f"{outcome.value:.3g}"
        wanted = f"{sign} {outcome.target.wanted:g}"
        lines.append(f"| {outcome.target.what} | {wanted} | {value} | {outcome.verdict} |")
    return lines
