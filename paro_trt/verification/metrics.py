"""Distances between outputs, and quality of samples. All in float64, whatever comes in."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ArgumentError

SSIM_WINDOW = 11
_SSIM_SIGMA, _SSIM_K1, _SSIM_K2 = 1.5, 0.01, 0.03


@dataclass(frozen=True)
class OutputErrors:
    """Distances of one output from what was expected; NaN where either is not finite.

    Args:
        max_abs: largest absolute difference.
        relative_l2: |actual - expected| / |expected|, Euclidean norms.
        cosine: of the angle between the two as vectors.
        not_finite: elements of the actual output that are NaN or infinite.
        expected_not_finite: the same of the expected output.
    """

    max_abs: float
    relative_l2: float
    cosine: float
    not_finite: int
    expected_not_finite: int


def output_errors(actual: Tensor, expected: Tensor) -> OutputErrors:
    """Distances between two tensors of one shape; ArgumentError if the shapes differ."""
    actual, expected = _as_pair(actual, expected)
    difference = actual - expected
    norm, expected_norm = float(actual.norm()), float(expected.norm())
    error = float(difference.norm())
    both_zero = norm == 0 and expected_norm == 0
    cosine = float((actual * expected).sum()) / (norm * expected_norm or 1.0)
    return OutputErrors(
        max_abs=float(difference.abs().max()),
        relative_l2=error / expected_norm if expected_norm else (math.inf if error else 0.0),
        cosine=1.0 if both_zero else cosine,
        not_finite=int((~torch.isfinite(actual)).sum()),
        expected_not_finite=int((~torch.isfinite(expected)).sum()),
    )


def psnr(actual: Tensor, expected: Tensor, data_range: float) -> float:
    """Peak signal-to-noise ratio in dB: 10 log10(data_range^2 / mean squared error).

    data_range is the largest minus the smallest value possible, 2 for videos in [-1, 1]. Equal
    tensors give infinity.
    """
    actual, expected = _as_pair(actual, expected)
    return psnr_of(float((actual - expected).square().mean()), data_range)


def psnr_of(mean_squared_error: float, data_range: float) -> float:
    """The same of a mean squared error that is known; NaN of NaN."""
    if mean_squared_error == 0:
        return math.inf
    return 10 * math.log10(data_range**2 / mean_squared_error)


def ssim(actual: Tensor, expected: Tensor, data_range: float) -> float:
    """Mean structural similarity over samples, frames and channels of [B, C, F, H, W].

    Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural
    similarity", IEEE TIP 13(4), 2004: Gaussian window 11 x 11 of sigma 1.5, K1 .01, K2 .03, over
    windows that lie inside the frame.

    Raises:
        ArgumentError: other shapes, or frames smaller than the window.
    """
    if actual.ndim != 5 or min(actual.shape[-2:]) < SSIM_WINDOW:
        raise ArgumentError(
            "ssim",
            expected=f"videos [B, C, F, H, W] with H and W at least {SSIM_WINDOW}",
            actual=str(list(actual.shape)),
        )
    x, y = (
        tensor.transpose(1, 2).reshape(-1, 1, *tensor.shape[-2:])
        for tensor in _as_pair(actual, expected)
    )
    c1, c2 = (_SSIM_K1 * data_range) ** 2, (_SSIM_K2 * data_range) ** 2
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    variance_x = _window_mean(x * x) - mean_x**2
    variance_y = _window_mean(y * y) - mean_y**2
    covariance = _window_mean(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return float((luminance * structure).mean())


def flicker(actual: Tensor, expected: Tensor) -> tuple[Tensor, Tensor]:
    """Temporal flicker of videos [B, C, F, H, W], for each pair of successive frames.

    With x the actual video, y the expected one, and means over samples, channels and pixels:

        added[t]  = mean |(x[t+1] - x[t]) - (y[t+1] - y[t])|
        motion[t] = mean |y[t+1] - y[t]|

    A difference that stays the same in all frames adds nothing; one that comes and goes does.
    `flicker_ratio` turns both into one number.

    Returns:
        added and motion, float64 [F - 1] each.

    Raises:
        ArgumentError: other shapes.
    """
    if actual.ndim != 5:
        raise ArgumentError(
            "flicker", expected="videos [B, C, F, H, W]", actual=str(list(actual.shape))
        )
    x, y = _as_pair(actual, expected)
    change, motion = x.diff(dim=2) - y.diff(dim=2), y.diff(dim=2)
    return change.abs().mean(dim=(0, 1, 3, 4)), motion.abs().mean(dim=(0, 1, 3, 4))


def flicker_ratio(added: float, motion: float) -> float:
    """added / motion: 0 is none, 1 is as much again as the expected video's own change.

    A video that stands still has no motion to compare with: any change gives infinity.
    """
    if motion == 0:
        return math.inf if added else 0.0
    return added / motion


def _window_mean(images: Tensor) -> Tensor:
    """Gaussian-weighted mean around each pixel, float64 [N, 1, H-10, W-10]."""
    offsets = torch.arange(SSIM_WINDOW, dtype=torch.float64) - SSIM_WINDOW // 2
    weights = torch.exp(-(offsets**2) / (2 * _SSIM_SIGMA**2))
    weights = weights / weights.sum()
    rows = F.conv2d(images, weights.view(1, 1, -1, 1))
    return F.conv2d(rows, weights.view(1, 1, 1, -1))


def _as_pair(actual: Tensor, expected: Tensor) -> tuple[Tensor, Tensor]:
    if actual.shape != expected.shape:
        raise ArgumentError(
            "actual", expected=f"shape {list(expected.shape)}", actual=str(list(actual.shape))
        )
    return actual.double(), expected.double()
