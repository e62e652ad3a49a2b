"""Results as a terminal table, CSV, a plot and a page of Markdown."""

import csv
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from paro_trt.op.spec import AttentionConfig

from .evaluate import Quality
from .policies import SPARSE_KINDS, Configuration, Kind

BLOCK_K = AttentionConfig().block_k
PARO_KINDS = (Kind.PARO_POOLED, Kind.PARO_DROPPED, Kind.PARO_PAPER)
ABLATIONS = (Kind.NATURAL_POOLED, Kind.NATURAL_DROPPED)
COLUMNS = (
    "policy", "density asked", "density", "keys per query", "QK bits", "PV bits", "videos",
    "PSNR mean", "PSNR std", "SSIM mean", "SSIM std", "relative L2 mean", "relative L2 std",
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    """One configuration and its quality."""

    configuration: Configuration
    quality: Quality

    def keys_per_query(self, tokens: int) -> float:
        """Keys that a query attends on average, summary tokens included."""
        density = self.quality.density
        summaries = (1 - density) / BLOCK_K if self.configuration.kind.pooled else 0.0
        return (density + summaries) * tokens

    def row(self, tokens: int) -> tuple[str | float | int, ...]:
        """Values of `COLUMNS`."""
        configuration, quality = self.configuration, self.quality
        figures = [
            round(figure, digits)
            for values, digits in (
                (quality.psnr, 2),
                (quality.ssim, 4),
                (quality.relative_l2, 5),
            )
            for figure in mean_and_spread(values)
        ]
        return (
            configuration.kind.value,
            configuration.density,
            round(quality.density, 4),
            round(self.keys_per_query(tokens), 1),
            configuration.qk_bits,
            configuration.pv_bits,
            len(quality.psnr),
            *figures,
        )


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation; (inf, 0) where all are infinite."""
    if any(math.isinf(value) for value in values):
        return math.inf, 0.0
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def terminal_table(results: Sequence[Result]) -> Table:
    """A rich table of every result, mean ± standard deviation."""
    table = Table(title="Quality against dense attention")
    for index, column in enumerate(("policy", "density", "bits", "PSNR", "SSIM", "relative L2")):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    for result in results:
        configuration, quality = result.configuration, result.quality
        table.add_row(
            configuration.kind.value,
            f"{quality.density:.3f}",
            f"{configuration.qk_bits}/{configuration.pv_bits}",
            *_cells(quality),
        )
    return table


def _cells(quality: Quality) -> list[str]:
    """PSNR, SSIM and relative L2 error, each as mean ± standard deviation."""
    return [
        f"{mean:.{digits}f} ± {spread:.{digits}f}"
        for values, digits in ((quality.psnr, 2), (quality.ssim, 3), (quality.relative_l2, 3))
        for mean, spread in (mean_and_spread(values),)
    ]


def write_csv(results: Sequence[Result], tokens: int, path: Path) -> None:
    """One line a configuration."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(result.row(tokens) for result in results)


def write_plot(results: Sequence[Result], path: Path) -> None:
    """PSNR and attention error against density at 16 bits, one line a policy."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(12, 5))
    for kind in SPARSE_KINDS:
        line = sorted(unquantized(results, kind), key=lambda r: r.quality.density)
        density = [result.quality.density for result in line]
        style = {"marker": "o", "linestyle": "-" if kind in PARO_KINDS else "--"}
        for axis, values in zip(axes, ("psnr", "relative_l2"), strict=True):
            spread = [mean_and_spread(getattr(result.quality, values)) for result in line]
            axis.plot(density, [mean for mean, _ in spread], label=kind.value, **style)
    axes[0].set(xlim=(0.0, 0.6), xlabel="density", ylabel="PSNR against the dense video (dB)")
    axes[1].set(
        xlim=(0.0, 0.6), xlabel="density", ylabel="relative L2 error of attention", yscale="log"
    )
    axes[0].legend(fontsize=8)
    for axis in axes:
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def unquantized(results: Sequence[Result], kind: Kind) -> list[Result]:
    """Results of a policy at 16 bits, in the order given."""
    return [
        result
        for result in results
        if result.configuration.kind is kind and not result.configuration.quantized
    ]


def write_page(
    results: Sequence[Result], facts: Sequence[tuple[str, str]], plot: Path, path: Path
) -> None:
    """The Markdown page; facts are (name, value) pairs of how it was measured."""
    densities = sorted({r.configuration.density for r in _sparse(results)}, reverse=True)
    lines = ["# Quality of block-sparse attention on the included model", ""]
    lines += ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts), ""]
    lines += [f"![PSNR and attention error against density]({plot.name})", ""]
    for title, metric, digits in (
        ("PSNR against the dense video, dB, mean ± standard deviation over videos", "psnr", 2),
        ("SSIM", "ssim", 3),
        ("Relative L2 error of attention outputs on dense inputs, over calls", "relative_l2", 3),
    ):
        lines += [f"## {title}", "", *_density_table(results, densities, metric, digits), ""]
    lines += ["## Bits", "", *_bits_table(results), ""]
    lines += ["## Reading", "", *(_reading(results, density) for density in densities)]
    lines += [*_bits_reading(results), ""]
    path.write_text("\n".join(lines))


def _sparse(results: Sequence[Result]) -> list[Result]:
    return [result for kind in SPARSE_KINDS for result in unquantized(results, kind)]


def _density_table(
    results: Sequence[Result], densities: Sequence[float], metric: str, digits: int
) -> list[str]:
    lines = [
        "| policy at density | " + " | ".join(f"{density:g}" for density in densities) + " |",
        "|---|" + "---|" * len(densities),
    ]
    for kind in SPARSE_KINDS:
        of_density = {r.configuration.density: r for r in unquantized(results, kind)}
        cells = []
        for density in densities:
            if density not in of_density:
                cells.append("not measured")
                continue
            mean, spread = mean_and_spread(getattr(of_density[density].quality, metric))
            cells.append(f"{mean:.{digits}f} ± {spread:.{digits}f}")
        lines.append(f"| {kind.value} | " + " | ".join(cells) + " |")
    return lines


def _bits_table(results: Sequence[Result]) -> list[str]:
    lines = [
        "| policy | density | QK/PV bits | PSNR | SSIM | relative L2 | videos |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        configuration, quality = result.configuration, result.quality
        if not configuration.quantized:
            continue
        lines.append(
            f"| {configuration.kind.value} | {configuration.density:g} "
            f"| {configuration.qk_bits}/{configuration.pv_bits} | {' | '.join(_cells(quality))} "
            f"| {len(quality.psnr)} |"
        )
    return lines


def _reading(results: Sequence[Result], density: float) -> str:
    """Our default against the best policy that is not PARO, video by video."""
    at_density = {
        r.configuration.kind: r.quality.psnr
        for r in _sparse(results)
        if r.configuration.density == density
    }
    others = [kind for kind in at_density if kind not in (*PARO_KINDS, *ABLATIONS)]
    if Kind.PARO_POOLED not in at_density or not others:
        return f"- Density {density:g}: not measured."
    ours = at_density[Kind.PARO_POOLED]
    best = max(others, key=lambda kind: statistics.fmean(at_density[kind]))
    gains = [mine - theirs for mine, theirs in zip(ours, at_density[best], strict=False)]
    mean, spread = mean_and_spread(gains)
    won = sum(gain > 0 for gain in gains)
    return (
        f"- Density {density:g}: {Kind.PARO_POOLED.value} is {mean:+.2f} ± {spread:.2f} dB from "
        f"the best other policy, {best.value}; better on {won} of {len(gains)} videos."
    )


def _bits_reading(results: Sequence[Result]) -> list[str]:
    """What integers cost our default at the density they were measured at, video by video."""
    plain = {r.configuration.density: r for r in unquantized(results, Kind.PARO_POOLED)}
    lines = []
    for result in results:
        configuration = result.configuration
        if not configuration.quantized or configuration.kind is not Kind.PARO_POOLED:
            continue
        if configuration.density not in plain:
            continue
        # Quantized runs cover the first videos only.
        pairs = zip(result.quality.psnr, plain[configuration.density].quality.psnr, strict=False)
        mean, spread = mean_and_spread([quantized - exact for quantized, exact in pairs])
        lines.append(
            f"- {configuration.label}: {mean:+.2f} ± {spread:.2f} dB from 16 bits at this density."
        )
    return lines
