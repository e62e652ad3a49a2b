"""What the attention benchmark writes, and reads back for the table."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import get_type_hints

from paro_trt.bench.timing import Timing

FILE, ROUNDS_FILE, RATES_FILE = "attention.csv", "rounds.csv", "rates.csv"
HOST_CALL = "PARO, host time"
"""Contender of the row that has the time of queueing one call."""


@dataclass(frozen=True)
class Row:
    """One contender of one group. None or empty where it does not apply or was not measured.

    density: asked for; tops: operations of the blocks executed, 1e12 a second. peak_share: of the
    best rate measured for such numbers. speedup: over the fastest SDPA backend, by rounds.
    stage1_copy_share: the least bytes of stage 1 over its time, of the measured copy rate.
    """

    group: str
    tokens: int
    heads: int
    head_dim: int
    contender: str
    kernel: str = ""
    bits: int | None = None
    block_k: int | None = None
    density: float | None = None
    ms: float | None = None
    spread: float | None = None
    rounds: int | None = None
    tops: float | None = None
    peak_share: float | None = None
    speedup: float | None = None
    baseline: str = ""
    stage1_ms: float | None = None
    stage2_ms: float | None = None
    stage1_share: float | None = None
    stage1_copy_share: float | None = None
    relative_error: float | None = None
    note: str = ""


class Files:
    """The two CSV files, written group by group."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._rows, self._rounds = folder / FILE, folder / ROUNDS_FILE
        _append(self._rows, [[field.name for field in fields(Row)]], "w")
        _append(self._rounds, [["group", "contender", "round", "ms"]], "w")

    def add(self, rows: Sequence[Row], timings: Sequence[Timing] = ()) -> None:
        """Rows of one group, and the timings behind them."""
        _append(self._rows, [_cells(row) for row in rows])
        rounds = [
            [rows[0].group, timing.name, index, f"{seconds * 1e3:.5f}"]
            for timing in timings
            for index, seconds in enumerate(timing.seconds)
        ]
        _append(self._rounds, rounds)


def read_rows(folder: Path) -> list[Row]:
    """What is written so far; none where nothing is."""
    path = folder / FILE
    if not path.is_file():
        return []
    types = get_type_hints(Row)
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Row(**{name: _value(text, types[name]) for name, text in cells.items()})
            for cells in csv.DictReader(file)
        ]


def read_rates(path: Path) -> dict[str, dict[str, float]]:
    """Numbers that rates.cu printed, by name and column; none where there is no file."""
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {
            row.pop("name"): {name: float(text) for name, text in row.items() if name != "unit"}
            for row in csv.DictReader(file)
        }


def _append(path: Path, lines: Sequence[Sequence[object]], mode: str = "a") -> None:
    with path.open(mode, newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(lines)


def _cells(row: Row) -> list[object]:
    cells = asdict(row).values()
    return ["" if x is None else f"{x:.6g}" if isinstance(x, float) else x for x in cells]


def _value(text: str, kind: object) -> object:
    if kind is str:
        return text
    if text == "":
        return None
    return float(text) if kind == float | None else int(text)
