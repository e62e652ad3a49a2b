"""Two videos or images of one size compared as people see them: per frame and in all."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ..errors import ArgumentError
from . import metrics
from .metrics import SSIM_WINDOW, flicker_ratio, psnr_of, ssim

_RANGE = 1.0
"""Pixel values are in 0..1."""


@dataclass(frozen=True)
class FrameQuality:
    """One frame against the expected one.

    Args:
        psnr: dB; infinite where both are equal.
        ssim: structural similarity; None where frames are smaller than its window.
        flicker: ratio of the change from this frame to the next; None for the last.
    """

    psnr: float
    ssim: float | None
    flicker: float | None


@dataclass(frozen=True)
class VideoQuality:
    """A video or image against the expected one, of the same prompt and noise.

    Args:
        psnr: dB, of the mean squared error over all frames.
        ssim: mean over frames; None where frames are smaller than its window.
        flicker: change added from frame to frame, over the expected video's own; None for an
            image. See `metrics.flicker`.
        frames: one by one.
    """

    psnr: float
    ssim: float | None
    flicker: float | None
    frames: tuple[FrameQuality, ...]


@dataclass(frozen=True)
class QualityBounds:
    """What a video must reach; None leaves a figure free.

    Args:
        min_psnr: dB.
        max_flicker: ratio.
    """

    min_psnr: float | None = None
    max_flicker: float | None = None

    def __post_init__(self) -> None:
        if self.min_psnr is not None and not math.isfinite(self.min_psnr):
            raise ArgumentError("min_psnr", expected="a number of dB", actual=str(self.min_psnr))
        if self.max_flicker is not None and not 0 <= self.max_flicker < math.inf:
            raise ArgumentError(
                "max_flicker", expected="a number of at least 0", actual=str(self.max_flicker)
            )

    @property
    def any(self) -> bool:
        """Whether there is a bound."""
        return (self.min_psnr, self.max_flicker) != (None, None)

    def failures(self, quality: VideoQuality) -> tuple[str, ...]:
        """A line for each bound that is not met."""
        lines: list[str] = []
        if self.min_psnr is not None and not quality.psnr >= self.min_psnr:
            lines.append(f"PSNR {quality.psnr:.2f} dB is below {self.min_psnr:g}")
        flicker = 0.0 if quality.flicker is None else quality.flicker
        if self.max_flicker is not None and not flicker <= self.max_flicker:
            lines.append(f"flicker {flicker:.4f} is above {self.max_flicker:g}")
        return tuple(lines)


def compare_videos(actual: Tensor, expected: Tensor) -> VideoQuality:
    """Quality of frames [F, H, W, C] of values in 0..1 against those expected; F is 1 for images.

    Raises:
        ArgumentError: the shapes differ.
    """
    if actual.shape != expected.shape or actual.ndim != 4 or not len(actual):
        raise ArgumentError(
            "actual", expected=f"frames of shape {list(expected.shape)}",
            actual=str(list(actual.shape)),
        )  # fmt: skip
    similar = [_ssim(*pair) for pair in zip(actual, expected, strict=True)]
    errors = [
        float((one.double() - other.double()).square().mean())
        for one, other in zip(actual, expected, strict=True)
    ]
    added, motion = _changes(actual, expected)
    ratios = [flicker_ratio(*pair) for pair in zip(added, motion, strict=True)]
    frames = zip(errors, similar, [*ratios, None], strict=True)
    return VideoQuality(
        psnr=psnr_of(sum(errors) / len(errors), _RANGE),
        ssim=None if None in similar else sum(filter(None, similar)) / len(similar),
        flicker=flicker_ratio(sum(added), sum(motion)) if ratios else None,
        frames=tuple(FrameQuality(psnr_of(error, _RANGE), *rest) for error, *rest in frames),
    )


def _changes(actual: Tensor, expected: Tensor) -> tuple[list[float], list[float]]:
    """`metrics.flicker` pair by pair: a whole video in float64 is large."""
    added, motion = [], []
    for index in range(len(actual) - 1):
        pair = (_channels_first(video[index : index + 2]) for video in (actual, expected))
        more, own = metrics.flicker(*pair)
        added.append(float(more))
        motion.append(float(own))
    return added, motion


def _ssim(actual: Tensor, expected: Tensor) -> float | None:
    if min(actual.shape[:2]) < SSIM_WINDOW:
        return None
    return ssim(_channels_first(actual[None]), _channels_first(expected[None]), _RANGE)


def _channels_first(frames: Tensor) -> Tensor:
    """[1, C, F, H, W] of frames [F, H, W, C]."""
    return frames.permute(3, 0, 1, 2)[None]
