"""Tables and figures of what has been measured."""

from __future__ import annotations

import csv
import math
import platform
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import torch

from paro_trt.errors import ArgumentError

from .calibrated import DRIFTS, ONE_BIN
from .measure import DRIFT_COSTS, CallError, load_errors
from .policies import COSTS, OTHERS, RECIPES, STATIC_2, VERSION_1, VERSION_2
from .videos import VideoQuality, load_videos

ERROR_COLUMNS = (
    "source", "policy", "cost asked", "cost", "error", "prompts", "calls",
    "difference from version 1", "standard error",
)  # fmt: skip
VIDEO_COLUMNS = ("policy", "cost", "video", "PSNR dB", "SSIM")

PARTS = ("64 rows", "mix", "correction", "64 rows + mix", "mix + correction", STATIC_2, VERSION_2)
"""Bars of the figure of the parts."""

SOURCE_NAMES = {
    "included": "included pipeline",
    "synthetic": "synthetic fields",
    "terrain": "pretrained UNet",
}
"""What figures call the sources."""


@dataclass(frozen=True)
class Cell:
    """One policy at one cost on one source.

    error: mean over layers and calls; cost: mean, as measured; difference, spread: of the error
    relative to version 1's on the same calls, mean over prompts and its standard error; None
    where version 1 has no choice at this cost.
    """

    source: str
    policy: str
    asked: float
    cost: float
    error: float
    prompts: int
    calls: int
    difference: float | None
    spread: float | None

    def row(self) -> tuple[str | float | int | None, ...]:
        """Values of `ERROR_COLUMNS`."""
        rounded = (
            None if value is None else round(value, 5) for value in (self.difference, self.spread)
        )
        return (
            self.source, self.policy, self.asked, round(self.cost, 5), round(self.error, 5),
            self.prompts, self.calls, *rounded,
        )  # fmt: skip


def cells(source: str, errors: Iterable[CallError], baseline: str = VERSION_1) -> list[Cell]:
    """Means of each policy and cost, compared with `baseline` at the same cost."""
    found: dict[tuple[str, float], list[CallError]] = defaultdict(list)
    for error in errors:
        found[error.policy, error.cost].append(error)
    result = []
    for (policy, cost), of_cell in found.items():
        # Where all that a row attends has no weight beyond float32, the contributions are 0 / 0.
        if not all(math.isfinite(error.error) for error in of_cell):
            continue
        change = _relative(of_cell, found.get((baseline, cost), []))
        result.append(
            Cell(
                source, policy, cost,
                statistics.fmean(error.keys for error in of_cell),
                statistics.fmean(error.error for error in of_cell),
                len({error.prompt for error in of_cell}),
                len(of_cell),
                *mean_and_error(change),
            )
        )  # fmt: skip
    return result


def _relative(errors: Sequence[CallError], baseline: Sequence[CallError]) -> list[float]:
    """For each prompt: mean error over the baseline's on the same layers and calls, less one."""
    change = []
    for prompt in sorted({error.prompt for error in baseline}):
        own = [error.error for error in errors if error.prompt == prompt]
        other = [error.error for error in baseline if error.prompt == prompt]
        if len(own) == len(other):
            change.append(statistics.fmean(own) / statistics.fmean(other) - 1)
    return change


def mean_and_error(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and standard error of the mean; None where there are too few."""
    if not values:
        return None, None
    spread = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
    return statistics.fmean(values), spread


def write_csv(columns: Sequence[str], rows: Iterable[Sequence[object]], path: Path) -> None:
    """A table, its columns named."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def write_report(work: Path, output: Path) -> None:
    """CSV, figures and a page of the results in `work`.

    Args:
        work: with errors-SOURCE.json, drift-SOURCE.json and videos.json, those that were measured.
        output: path without suffix; existing files are replaced.

    Raises:
        ArgumentError: nothing has been measured.
    """
    errors, drifts = (
        {
            title: cells(title, load_errors(path), baseline)
            for name, title in SOURCE_NAMES.items()
            if (path := work / f"{kind}-{name}.json").exists()
        }
        for kind, baseline in (
            ("errors", VERSION_1),
            ("drift", f"{VERSION_1}: {next(iter(DRIFTS))}"),
        )
    )
    videos = load_videos(work / "videos.json") if (work / "videos.json").exists() else []
    if not (errors or drifts or videos):
        raise ArgumentError(
            "--work", expected=f"results in {work}", actual="none", remedy="measure errors first"
        )
    lines = ["# Quality of attention policies at equal cost", "", *_facts(), ""]
    if errors:
        every = [cell.row() for of_source in errors.values() for cell in of_source]
        write_csv(ERROR_COLUMNS, every, output.with_suffix(".csv"))
        plot_errors(errors, output.with_suffix(".png"))
        plot_parts(errors, output.with_name(f"{output.name}-parts.png"), DRIFT_COSTS)
        for title, of_source in errors.items():
            calls = max(cell.calls for cell in of_source)
            lines += [f"## Attention error: {title}", "", f"{calls} calls of a layer each.", ""]
            lines += [*error_table(of_source, (*RECIPES, *OTHERS)), ""]
    for title, of_source in drifts.items():
        lines += [f"## Masks of other captures: {title}", ""]
        for cost in sorted({cell.asked for cell in of_source}, reverse=True):
            lines += [f"Cost {cost:.2f}:", "", *drift_table(of_source, cost), ""]
    if videos:
        rows = [(v.policy, v.cost, v.video, round(v.psnr, 3), round(v.ssim, 4)) for v in videos]
        write_csv(VIDEO_COLUMNS, rows, output.with_name(f"{output.name}-videos.csv"))
        lines += ["## Videos of the included pipeline", ""]
        if any(ONE_BIN in video.policy for video in videos):
            lines += [f'"{ONE_BIN}": as a plan of one bin, whose masks are made of both.', ""]
        lines += [*video_table(videos), ""]
    output.with_suffix(".md").write_text("\n".join(lines))


def _facts() -> list[str]:
    """How it was measured."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    names = [line.partition(": ")[2] for line in text.splitlines() if line[:10] == "model name"]
    today = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    return [
        f"Written by `python -m samples.benchmarks.quality report` on {today}, "
        f"{names[0] if names else platform.machine()}, torch {torch.__version__}.",
        "",
        "Error: |A - dense| / |dense| of a layer's heads on captures that nothing was calibrated "
        "on, mean over calls; in brackets the difference from version 1 on the same calls, mean "
        "over prompts and its standard error. Costs are keys that a query meets, as a share of "
        "all: summaries and forced blocks, and what correction and our choice at run time compute. "
        "What the policies of other projects compute to choose is counted only where a name says "
        "so. Empty: the forced blocks cost more, the policy does not exist there, or all that a "
        "row attends has no weight in float32.",
    ]


def error_table(found: Sequence[Cell], names: Sequence[str]) -> list[str]:
    """Markdown: a policy a row, a cost a column; the difference from version 1 in percent."""
    lines = [
        "| policy | " + " | ".join(f"{cost:.2f}" for cost in COSTS) + " |",
        "|---|" + "---|" * len(COSTS),
    ]
    at = {(cell.policy, cell.asked): cell for cell in found}
    for name in names:
        texts = [_error_text(at.get((name, cost))) for cost in COSTS]
        if any(texts):
            lines.append(f"| {name} | " + " | ".join(texts) + " |")
    return lines


def _error_text(cell: Cell | None) -> str:
    if cell is None:
        return ""
    if cell.policy == VERSION_1 or cell.difference is None:
        return f"{cell.error:.4f}"
    spread = f" ± {100 * cell.spread:.1f}" if cell.spread is not None else ""
    return f"{cell.error:.4f} ({100 * cell.difference:+.0f}{spread} %)"


def drift_table(found: Sequence[Cell], cost: float) -> list[str]:
    """Markdown: a policy a row; the error with masks of each kind, and its change in percent from
    those of other prompts."""
    at = {cell.policy: cell for cell in found if cell.asked == cost}
    names = list(dict.fromkeys(policy.partition(": ")[0] for policy in at))
    first, *others = (drift for drift in DRIFTS if f"{names[0]}: {drift}" in at)
    lines = [
        f"| policy | {first} | " + " | ".join(others) + " |",
        "|---|" + "---|" * (1 + len(others)),
    ]
    for name in names:
        base = at[f"{name}: {first}"].error
        changed = [at[f"{name}: {drift}"].error for drift in others]
        texts = [f"{error:.4f} ({100 * (error / base - 1):+.1f} %)" for error in changed]
        lines.append(f"| {name} | {base:.4f} | " + " | ".join(texts) + " |")
    return lines


def video_table(found: Sequence[VideoQuality], reference: str = VERSION_2) -> list[str]:
    """Markdown: PSNR of each policy and cost, and how `reference` differs on the same videos."""
    lines = [
        f"| cost | policy | videos | PSNR dB | SSIM | {reference} is | better on |",
        "|---|---|---|---|---|---|---|",
    ]
    at: dict[tuple[float, str], dict[int, VideoQuality]] = defaultdict(dict)
    for quality in found:
        at[quality.cost, quality.policy][quality.video] = quality
    for cost, policy in sorted(at, key=lambda key: (-key[0], key[1] != reference, key[1])):
        own, other = at[cost, policy], at[cost, reference]
        shared = sorted(own.keys() & other.keys())
        gains = [other[video].psnr - own[video].psnr for video in shared]
        mean, spread = mean_and_error(gains)
        compared = ("", "")
        if policy != reference and mean is not None:
            error = f" ± {spread:.2f}" if spread is not None else ""
            compared = f"{mean:+.2f}{error} dB", f"{sum(x > 0 for x in gains)} of {len(gains)}"
        psnr = statistics.fmean(quality.psnr for quality in own.values())
        ssim = statistics.fmean(quality.ssim for quality in own.values())
        lines.append(
            f"| {cost:.2f} | {policy} | {len(own)} | {psnr:.2f} | {ssim:.3f} | "
            + " | ".join(compared)
            + " |"
        )
    return lines


def plot_errors(found: Mapping[str, Sequence[Cell]], path: Path) -> None:
    """Error against cost, a panel for each source."""
    pyplot = _pyplot()
    names = (VERSION_1, STATIC_2, VERSION_2, *OTHERS)
    figure, axes = pyplot.subplots(1, len(found), figsize=(4.2 * len(found), 3.6), squeeze=False)
    for axis, (source, of_source) in zip(axes[0], found.items(), strict=True):
        for name in names:
            line = sorted((c.cost, c.error) for c in of_source if c.policy == name)
            if line:
                axis.plot(*zip(*line, strict=True), **_style(name))
        axis.set(title=source, xlabel="keys a query meets / S", yscale="log")
        axis.grid(alpha=0.3, which="both")
    axes[0][0].set_ylabel("relative L2 error of attention")
    axes[0][-1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    _save(figure, path)


def plot_parts(found: Mapping[str, Sequence[Cell]], path: Path, costs: Sequence[float]) -> None:
    """What each part of version 2 changes, in percent of version 1's error."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(
        1, len(found), figsize=(4.2 * len(found), 3.6), squeeze=False, sharey=True
    )
    for axis, (source, of_source) in zip(axes[0], found.items(), strict=True):
        at = {(cell.policy, cell.asked): cell for cell in of_source}
        for index, cost in enumerate(costs):
            drawn = [
                (place, at[name, cost])
                for place, name in enumerate(PARTS)
                if (name, cost) in at and at[name, cost].difference is not None
            ]
            axis.barh(
                [place + 0.27 * (index - 1) for place, _ in drawn],
                [100 * (cell.difference or 0.0) for _, cell in drawn],
                xerr=[100 * (cell.spread or 0.0) for _, cell in drawn],
                height=0.25,
                label=f"cost {cost:.2f}",
            )
        axis.set(title=source, xlabel="change of error from version 1, %")
        axis.set_yticks(range(len(PARTS)), PARTS, fontsize=8)
        axis.grid(alpha=0.3, axis="x")
    axes[0][0].invert_yaxis()
    axes[0][0].legend(fontsize=7)
    _save(figure, path)


def _style(name: str) -> dict[str, object]:
    ours = name in RECIPES
    return {"label": name, "marker": "o", "markersize": 3, "linestyle": "-" if ours else "--"}


def _pyplot():
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    return pyplot


def _save(figure, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=90)
