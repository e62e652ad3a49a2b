"""The curves of a training run as an image."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from matplotlib.figure import Figure


class TrainingPoint(Protocol):
    """What the curves need of one line of loss.csv."""

    @property
    def step(self) -> int: ...
    @property
    def frames(self) -> int: ...
    @property
    def loss(self) -> float: ...
    @property
    def colour(self) -> float | None: ...
    @property
    def size(self) -> float | None: ...
    @property
    def shape(self) -> float | None: ...


def plot_training(rows: Sequence[TrainingPoint], path: Path) -> None:
    """Writes a PNG: the loss by clip length, and what a wrong word adds to it, against the step."""
    figure = Figure(figsize=(7, 6))
    above, below = figure.subplots(2, 1, sharex=True)
    for frames in sorted({row.frames for row in rows}):
        part = [row for row in rows if row.frames == frames]
        above.plot([row.step for row in part], [row.loss for row in part], label=f"{frames}")
    above.set(ylabel="flow-matching loss", yscale="log")
    for word in ("colour", "size", "shape"):
        part = [row for row in rows if getattr(row, word) is not None]
        below.plot(
            [row.step for row in part], [getattr(row, word) for row in part], ".-", label=word
        )
    below.set(xlabel="step", ylabel="rise of the held-out loss, %")
    for axes, title in ((above, "frames"), (below, "wrong word")):
        axes.grid(alpha=0.3, which="both")
        if rows:
            axes.legend(title=title)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
