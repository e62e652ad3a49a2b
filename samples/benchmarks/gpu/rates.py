"""The rates of the GPU's pipes, as rates.cu printed them."""

from __future__ import annotations

import csv
from pathlib import Path

RATES_FILE = "rates.csv"


def read_rates(path: Path) -> dict[str, dict[str, float]]:
    """Numbers that rates.cu printed, by name and column; none where there is no file."""
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {
            row.pop("name"): {name: float(text) for name, text in row.items() if name != "unit"}
            for row in csv.DictReader(file)
        }


def rates_table(rates: dict[str, dict[str, float]]) -> list[str]:
    """A line a pipe."""
    lines = ["| pipe | rate | a clock and SM | MHz | spread |", "|---|---|---|---|---|"]
    for name, columns in rates.items():
        per_clock = f"{columns['per_clock_sm']:.1f}" if columns["per_clock_sm"] else ""
        mhz = f"{columns['mhz']:.0f}" if columns["mhz"] else ""
        rate = f"{columns['rate'] / 1e12:.2f} T/s"
        lines.append(f"| {name} | {rate} | {per_clock} | {mhz} | {columns['spread']:.1%} |")
    return lines
