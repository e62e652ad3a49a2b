"""The picture of the attention benchmark: speedup against density, with the ideal line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .contenders import BASELINE
from .suite import Measurement


def plot_speedup(measurements: Sequence[Measurement], path: Path) -> None:
    """Write a PNG: one panel a workload, one line a sparse contender, points for dense ones."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    workloads = sorted({(m.tokens, m.head_dim, m.heads, m.threads) for m in measurements})
    figure, grid = plt.subplots(
        1, len(workloads), figsize=(5.5 * len(workloads), 4.6), squeeze=False
    )
    for panel, workload in zip(grid[0], workloads, strict=True):
        rows = [m for m in measurements if (m.tokens, m.head_dim, m.heads, m.threads) == workload]
        densities = sorted({m.density for m in rows})
        panel.plot(densities, [1 / d for d in densities], "k--", lw=1, label="ideal 1/density")
        for name in dict.fromkeys(m.contender for m in rows):
            own = sorted((m.density, m.speedup) for m in rows if m.contender == name)
            style = "o-" if len(own) > 1 else "s"
            panel.plot(*zip(*own, strict=True), style, ms=5, label=name)
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.set_xticks(densities, [f"{d:.2g}" for d in densities])
        panel.minorticks_off()
        ticks = [t for t in (0.5, 1, 2, 4, 8, 16) if t <= 2 / densities[0]]
        panel.set_yticks(ticks, [f"{t:g}x" for t in ticks])
        panel.set_xlabel("density (attended blocks / all blocks)")
        panel.set_ylabel(f"speedup over {BASELINE}")
        tokens, head_dim, heads, threads = workload
        panel.set_title(f"{tokens:,} tokens, {heads} x {head_dim}, {threads} thread(s)")
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
