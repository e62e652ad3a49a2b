"""The GPU suite's targets and tables, from rows."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "samples" / "benchmarks"))

from gpu import table
from gpu.results import HOST_CALL, Row
from gpu.shapes import COGVIDEOX, WAN_480P
from gpu.targets import outcomes


def target_rows() -> list[Row]:
    def row(shape, kernel, density, **columns):
        sizes = (shape.tokens, shape.heads, shape.head_dim)
        return Row("g", *sizes, "PARO", kernel, 8, 64, density, ms=1.0, **columns)

    return [
        row(COGVIDEOX, "wgmma", 0.25, speedup=5.0, stage1_share=0.04, stage1_copy_share=0.5),
        row(COGVIDEOX, "mma.sync", 0.25, speedup=2.5),
        row(WAN_480P, "mma.sync", 1.0, speedup=0.71, tops=500.0),
        row(WAN_480P, "mma.sync", 0.25, speedup=2.6, tops=460.0),
        Row("one call", 128, 1, 64, HOST_CALL, ms=0.012),
    ]


def test_targets_are_held_against_their_own_rows():
    verdicts = {o.target.what: (o.value, o.verdict) for o in outcomes(target_rows())}
    sparse = "17,776 x 48 x 64, density 0.25, times fastest SDPA"
    assert verdicts[f"wgmma, {sparse}"] == (5.0, "met")
    assert verdicts[f"mma.sync, {sparse}"] == (2.5, "missed")
    dense = "32,760 x 40 x 128, density 1, times fastest SDPA"
    assert verdicts[f"mma.sync, {dense}"] == (0.71, "met")
    assert verdicts[f"wgmma, {dense}"] == (None, "not measured")
    of_dense = "mma.sync, 32,760 x 40 x 128, TOPS at 0.25 of own dense"
    assert verdicts[of_dense] == (0.92, "met")
    assert verdicts["stage 1, 17,776 x 48 x 64, share of the time"] == (0.04, "met")
    assert verdicts["stage 1, 17,776 x 48 x 64, of copy rate"] == (0.5, "missed")
    assert verdicts["host time of one call, launches included, us"] == (12.0, "missed")


def test_targets_are_those_of_the_design():
    wanted = {(o.target.what.split(",")[0], o.target.wanted) for o in outcomes([])}
    assert {("mma.sync", 0.7), ("mma.sync", 2.6), ("wgmma", 1.3), ("wgmma", 4.8)} <= wanted
    assert all(outcome.verdict == "not measured" for outcome in outcomes([]))


def test_attention_table_has_a_line_a_contender():
    lines = table.attention_table(target_rows())
    assert len(lines) == 2 + 3
    assert (
        lines[4] == "| 32,760 x 40 x 128 | PARO mma.sync 8 bits | 1 (0.71x) |  |  | 1 (2.60x) |  |"
    )
