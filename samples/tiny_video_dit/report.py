"""The loss curve of a training run as an image."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from matplotlib.figure import Figure


class LossPoint(Protocol):
    """What a curve needs of one line of loss.csv."""

    step: int
    frame_size: int
    loss: float


def plot_losses(rows: Sequence[LossPoint], path: Path, window: int = 10) -> None:
    """Writes a PNG: loss against step on a log scale, with its running mean, by frame size."""
    figure = Figure(figsize=(7, 4))
    axes = figure.subplots()
    for size in sorted({row.frame_size for row in rows}):
        part = [row for row in rows if row.frame_size == size]
        steps, losses = [row.step for row in part], [row.loss for row in part]
        means = [
            sum(losses[max(0, i - window + 1) : i + 1]) / min(window, i + 1)
            for i in range(len(losses))
        ]
        (line,) = axes.plot(steps, means, label=f"8 x {size} x {size}")
        axes.plot(steps, losses, color=line.get_color(), alpha=0.25, linewidth=0.7)
    axes.set(xlabel="step", ylabel="flow-matching loss", yscale="log")
    axes.grid(alpha=0.3, which="both")
    if rows:
        axes.legend(title="frames")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
