"""`paro-trt bench`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from ..errors import ArgumentError
from . import output
from .paths import ForceOption, Kind, check_output

if TYPE_CHECKING:
    from ..bench.results import Row

Number = TypeVar("Number", int, float)

MOST_ROUNDS_FACTOR = 3
"""How many times the rounds asked for may run until spreads settle."""


def bench(
    tokens: Annotated[str, typer.Option(help="Sequence lengths, comma-separated.")] = "2048,8192",
    head_dim: Annotated[str, typer.Option(help="64, 128 or both.")] = "64,128",
    heads: Annotated[int, typer.Option(min=1)] = 4,
    density: Annotated[str, typer.Option(help="Shares of blocks attended.")] = "1,.5,.3,.25,.2,.1",
    threads: Annotated[str, typer.Option(help="Numbers of threads.")] = "2",
    rounds: Annotated[
        int, typer.Option(min=1, help="Rounds; three times as many while spreads are above 5 %.")
    ] = 7,
    flex: Annotated[bool, typer.Option(help="Include FlexAttention (compiles first).")] = True,
    csv_path: Annotated[Path | None, typer.Option("--csv", help="Write all rows here.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write speedup against density, PNG.")] = None,
    force: ForceOption = False,
    as_json: output.JsonOption = False,
) -> None:
    """Time attention on this machine's CPU against named baselines of the same run.

    Outputs are verified before anything is timed.
    """
    from ..bench.case import OpCase
    from ..bench.measure import CPU_PRECISIONS, Group, cpu_bench, measure_group
    from ..bench.results import write_rows
    from ..bench.timing import Rounds

    for option, path, kind in (("--csv", csv_path, Kind.TABLE), ("--plot", plot, Kind.MEDIA)):
        if path is not None:
            check_output(path, kind, force=force, option=option)
    densities = tuple(_numbers("--density", density, float))
    if max(densities) > 1:
        raise ArgumentError(
            "--density", expected="shares in (0, 1]", actual=density, remedy="30 percent is 0.3"
        )
    rows: list[Row] = []
    for count in _numbers("--threads", threads, int):
        for size in _numbers("--tokens", tokens, int):
            for channels in _numbers("--head-dim", head_dim, int):
                name = f"{size} tokens, head_dim {channels}"
                case = OpCase(name, size, heads=heads, kv_heads=heads, head_dim=channels)
                group = Group(case, CPU_PRECISIONS, densities, flex=flex)
                turns = Rounds(rounds, MOST_ROUNDS_FACTOR * rounds)
                with output.status(name) as say:
                    rows += measure_group(cpu_bench(count), group, turns, say)[0]
    if csv_path is not None:
        write_rows(rows, csv_path)
    if plot is not None:
        from ..bench.plot import plot_speedup

        plot_speedup(rows, plot)
    if as_json:
        output.print_json({"measurements": [asdict(row) for row in rows]})
    else:
        show(rows)


def show(rows: list[Row]) -> None:
    """The table, a row a contender and density."""
    from ..bench.table import FIGURE_COLUMNS, SHAPE_COLUMNS, cells, left_out

    kernels = ", ".join(sorted({row.kernel for row in rows if row.kernel}))
    table = output.table(
        "Attention (speedup over torch SDPA f32 of the same rounds, of time and of processor time; "
        f"peak: FP32 multiply-adds; PARO: {kernels} kernels; int4: smoothed 4-bit query x key, "
        "8-bit P x value; !: spread above 5 %)",
        *SHAPE_COLUMNS, *FIGURE_COLUMNS, right=FIGURE_COLUMNS,
        whole=("contender",),
    )  # fmt: skip
    for row in rows:
        if row.ms is not None:
            table.add_row(*cells(row))
    output.results().print(table)
    for line in left_out(rows):
        output.remarks().print(line)


def _numbers(option: str, text: str, kind: Callable[[str], Number]) -> list[Number]:
    try:
        numbers = [kind(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) <= 0:
        raise ArgumentError(
            option, expected="positive numbers separated by commas", actual=repr(text)
        )
    return numbers
