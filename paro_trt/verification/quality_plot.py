"""PSNR, SSIM and flicker of every frame as one png."""

from __future__ import annotations

import math
from pathlib import Path

from ..files import atomic_write
from .videos import VideoQuality


def plot_quality(quality: VideoQuality, title: str, path: Path) -> None:
    """Write a png of three panels over the frames; values that are not finite leave a gap."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels: tuple[tuple[str, list[float] | list[float | None], float | None], ...] = (
        ("PSNR, dB", [frame.psnr for frame in quality.frames], quality.psnr),
        ("SSIM", [frame.ssim for frame in quality.frames], quality.ssim),
        ("flicker", [frame.flicker for frame in quality.frames], quality.flicker),
    )
    figure, axes = plt.subplots(len(panels), 1, figsize=(8, 6), sharex=True)
    for axis, (name, values, whole) in zip(axes, panels, strict=True):
        shown = [value if _finite(value) else math.nan for value in values]
        axis.plot(range(len(shown)), shown, "o-", ms=3)
        if _finite(whole):
            axis.axhline(whole, color="k", lw=1, ls="--", label=f"in all {whole:.4g}")
            axis.legend(fontsize=8)
        axis.set_ylabel(name)
        axis.grid(alpha=0.3)
    axes[0].set_title(title, fontsize=9)
    axes[-1].set_xlabel("frame")
    figure.tight_layout()
    with atomic_write(path) as file:
        figure.savefig(file, dpi=110, format="png")
    plt.close(figure)


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
