"""`paro-trt bench`."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import asdict, fields
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from ..errors import ArgumentError, NotInThisReleaseError
from . import output

if TYPE_CHECKING:
    from ..bench.suite import Measurement


Number = TypeVar("Number", int, float)


class Suite(str, Enum):
    """What to time."""

    ATTENTION = "attention"
    MODEL = "model"


def bench(
    suite: Annotated[Suite, typer.Option(help="What to time.")] = Suite.ATTENTION,
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
    as_json: output.JsonOption = False,
) -> None:
    """Time attention on this machine's CPU against named baselines of the same run.

    Outputs are verified before anything is timed.
    """
    if suite is Suite.MODEL:
        raise NotInThisReleaseError(
            "paro-trt bench --suite model",
            expected="a later release",
            actual="this one, which times attention",
        )
    from ..bench.contenders import Workload
    from ..bench.suite import measure

    densities = tuple(_numbers("--density", density, float))
    measurements: list[Measurement] = []
    for count in _numbers("--threads", threads, int):
        for size in _numbers("--tokens", tokens, int):
            for channels in _numbers("--head-dim", head_dim, int):
                workload = Workload(size, channels, heads, count, densities)
                with output.remarks().status(f"{size} tokens, head_dim {channels}") as status:
                    measurements += measure(
                        workload, rounds=rounds, flex=flex, on_step=status.update
                    )
    if csv_path is not None:
        write_csv(measurements, csv_path)
    if plot is not None:
        from ..bench.plot import plot_speedup

        plot_speedup(measurements, plot)
    if as_json:
        output.print_json({"measurements": [asdict(m) for m in measurements]})
    else:
        show(measurements)


def show(measurements: list[Measurement]) -> None:
    """The table, a row a contender and density."""
    from ..bench.suite import kernels_here

    numbers = (
        "density",
        "ms",
        "spread",
        "speedup",
        "by processor",
        "GFLOP/s",
        "of peak",
        "stage 1",
    )
    table = output.table(
        "Attention (speedup over torch SDPA f32 of the same rounds, of time and of processor time; "
        "peak: FP32 multiply-adds; "
        f"PARO: {kernels_here()}; !: spread above 5 %)",
        "tokens", "D", "threads", "contender", *numbers, right=numbers,
    )  # fmt: skip
    for m in measurements:
        table.add_row(
            f"{m.tokens:,}", str(m.head_dim), str(m.threads), m.contender, f"{m.density:.3f}",
            f"{m.milliseconds:.1f}", f"{m.spread:.0%}{'' if m.steady else ' !'}",
            f"{m.speedup:.2f}x", f"{m.processor_speedup:.2f}x",
            f"{m.gflops:.0f}", f"{m.peak_share:.0%}",
            "" if m.stage1_share is None else f"{m.stage1_share:.1%}",
        )  # fmt: skip
    output.results().print(table)


def write_csv(measurements: list[Measurement], path: Path) -> None:
    """All fields of all measurements."""
    from ..bench.suite import Measurement

    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Measurement)])
        writer.writeheader()
        writer.writerows(asdict(m) for m in measurements)


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
