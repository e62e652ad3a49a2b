"""The result row of the attention benchmark, and its files."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

from .timing import STEADY_SPREAD, Timing

FILE, ROUNDS_FILE = "attention.csv", "rounds.csv"


@dataclass(frozen=True)
class Row:
    """One contender of one group. None or empty where it does not apply or was not measured.

    precision: "f32", "bf16" or "int8". density: asked for; reached_density: of the mask. spread:
    half the interquartile range over the median. speedup: over the baseline, the median of the
    rounds; processor_speedup: the same of processor time. tops: operations of the blocks executed,
    1e12 a second, 4 * D * block_q * block_k each. peak_share: of the peak rate of the device; on a
    CPU that is the rate of FP32 multiply-adds, which integer and bfloat16 products may exceed.
    stage1_share: of this time. stage1_copy_share: the least bytes of stage 1 over its time, of the
    measured copy rate.
    """

    group: str
    tokens: int
    heads: int
    head_dim: int
    contender: str
    kernel: str = ""
    precision: str = ""
    threads: int | None = None
    block_k: int | None = None
    density: float | None = None
    reached_density: float | None = None
    ms: float | None = None
    spread: float | None = None
    rounds: int | None = None
    tops: float | None = None
    peak_share: float | None = None
    speedup: float | None = None
    processor_speedup: float | None = None
    baseline: str = ""
    stage1_ms: float | None = None
    stage2_ms: float | None = None
    stage1_share: float | None = None
    stage1_copy_share: float | None = None
    relative_error: float | None = None
    note: str = ""

    @property
    def steady(self) -> bool:
        """Whether the spread is that of an undisturbed machine."""
        return self.spread is None or self.spread <= STEADY_SPREAD


def write_rows(rows: Sequence[Row], path: Path) -> None:
    """A new CSV file with all fields of all rows."""
    _append(path, [[field.name for field in fields(Row)], *map(_cells, rows)], "w")


class Files:
    """The two CSV files, written group by group."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._rows, self._rounds = folder / FILE, folder / ROUNDS_FILE
        write_rows([], self._rows)
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


def _append(path: Path, lines: Sequence[Sequence[object]], mode: str = "a") -> None:
    with path.open(mode, newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(lines)


def _cells(row: Row) -> list[object]:
    cells = asdict(row).values()
    return ["" if x is None else f"{x:.6g}" if isinstance(x, float) else x for x in cells]


def _value(text: str, kind: object) -> Any:
    if kind is str:
        return text
    if text == "":
        return None
    return float(text) if kind == float | None else int(text)
