"""The plot of the attention benchmark: speedup against density, with the ideal line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .contenders import label
from .results import Row


def plot_speedup(rows: Sequence[Row], path: Path) -> None:
    """Write a PNG: one panel a shape, one line a sparse contender, points for dense ones."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shapes = sorted({_shape(row) for row in rows})
    figure, grid = plt.subplots(1, len(shapes), figsize=(5.5 * len(shapes), 4.6), squeeze=False)
    for panel, shape in zip(grid[0], shapes, strict=True):
        lines: dict[str, list[tuple[float, float]]] = {}
        for row in rows:
            if _shape(row) == shape and row.speedup is not None and row.reached_density is not None:
                name = label(row.contender, row.kernel, row.precision)
                lines.setdefault(name, []).append((row.reached_density, row.speedup))
        densities = sorted({density for points in lines.values() for density, _ in points})
        panel.plot(densities, [1 / d for d in densities], "k--", lw=1, label="ideal 1/density")
        for name, points in lines.items():
            style = "o-" if len(points) > 1 else "s"
            panel.plot(*zip(*sorted(points), strict=True), style, ms=5, label=name)
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.set_xticks(densities, [f"{d:.2g}" for d in densities])
        panel.minorticks_off()
        ticks = [t for t in (0.5, 1, 2, 4, 8, 16) if t <= 2 / densities[0]]
        panel.set_yticks(ticks, [f"{t:g}x" for t in ticks])
        panel.set_xlabel("density (attended blocks / all blocks)")
        panel.set_ylabel("speedup over torch SDPA")
        tokens, head_dim, heads, threads = shape
        panel.set_title(f"{tokens:,} tokens, {heads} x {head_dim}, {threads} thread(s)")
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _shape(row: Row) -> tuple[int, int, int, int]:
    return row.tokens, row.head_dim, row.heads, row.threads or 0
