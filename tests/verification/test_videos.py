"""Quality of videos: per frame, in all, and the bounds on it."""

from __future__ import annotations

import math

import pytest
import torch
from PIL import Image

from paro_trt.errors import ArgumentError
from paro_trt.verification.metrics import flicker, psnr, ssim
from paro_trt.verification.quality_plot import plot_quality
from paro_trt.verification.videos import QualityBounds, compare_videos


def videos(frames: int = 5, size: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Actual and expected, [F, H, W, 3] in 0..1; the error grows with the frame."""
    expected = torch.rand(frames, size, size, 3) * 0.6 + 0.2
    error = torch.randn_like(expected) * torch.linspace(0.001, 0.1, frames).view(-1, 1, 1, 1)
    return (expected + error).clamp(0, 1), expected


def test_figures_in_all_are_those_of_the_whole_video():
    actual, expected = videos()
    quality = compare_videos(actual, expected)
    whole = [video.permute(3, 0, 1, 2)[None] for video in (actual, expected)]
    assert quality.psnr == pytest.approx(psnr(*whole, data_range=1.0))
    assert quality.ssim == pytest.approx(ssim(*whole, data_range=1.0))
    added, motion = flicker(*whole)
    assert quality.flicker == pytest.approx(float(added.sum() / motion.sum()))
    assert [frame.flicker for frame in quality.frames[:-1]] == pytest.approx(
        (added / motion).tolist()
    )
    assert [frame.psnr for frame in quality.frames] == sorted(
        (frame.psnr for frame in quality.frames), reverse=True
    )
    assert quality.frames[-1].flicker is None


def test_equal_videos_and_single_images():
    _, expected = videos()
    quality = compare_videos(expected, expected)
    assert (quality.psnr, quality.flicker) == (math.inf, 0.0)
    assert quality.ssim == pytest.approx(1.0)
    image = compare_videos(expected[:1] * 0.9, expected[:1])
    assert image.flicker is None
    assert len(image.frames) == 1
    assert compare_videos(expected[:, :10], expected[:, :10]).ssim is None
    with pytest.raises(ArgumentError, match="frames of shape"):
        compare_videos(expected[1:], expected)


def test_bounds():
    quality = compare_videos(*videos())
    assert QualityBounds().failures(quality) == ()
    assert QualityBounds(quality.psnr - 1, quality.flicker + 0.1).failures(quality) == ()
    low, high = QualityBounds(quality.psnr + 1, quality.flicker - 0.01).failures(quality)
    assert "PSNR" in low
    assert "flicker" in high
    still = torch.full((3, 16, 16, 3), 0.5)
    moved = still.clone()
    moved[1] += 0.1
    assert QualityBounds(max_flicker=100.0).failures(compare_videos(moved, still))
    for bad in ({"min_psnr": math.nan}, {"max_flicker": -1.0}, {"max_flicker": math.inf}):
        with pytest.raises(ArgumentError):
            QualityBounds(**bad)


def test_the_plot_is_a_picture(tmp_path):
    path = tmp_path / "plot.png"
    plot_quality(compare_videos(*videos()), "a plan", path)
    plot_quality(compare_videos(videos()[1][:1], videos()[1][:1]), "one image", path)
    assert Image.open(path).size[0] > 400
