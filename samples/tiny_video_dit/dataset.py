"""Synthetic videos: one shape moves over a slowly drifting, softly striped background.

Everything is rendered from formulas in frame-relative units (the frame spans [-1, 1] both ways),
so a scene can be rendered at any frame size; training starts on small frames for this reason.
"""

import math
from dataclasses import dataclass

import torch

from .text import ALL_SCENES, Scene

FRAMES = 8
FRAME_SIZE = 64

RADII = {"small": 0.30, "big": 0.46}
RGB = {
    "red": (0.95, -0.75, -0.75),
    "green": (-0.7, 0.75, -0.6),
    "blue": (-0.75, -0.4, 0.95),
    "yellow": (0.95, 0.85, -0.75),
    "purple": (0.6, -0.7, 0.85),
    "white": (0.95, 0.95, 0.95),
}
# Image rows grow downwards, hence "up" is negative y.
STEPS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}


@dataclass(frozen=True)
class Batch:
    """`videos` [B, 3, F, S, S] f32 in [-1, 1] and the scene each one shows."""

    videos: torch.Tensor
    scenes: tuple[Scene, ...]


def _box(x: torch.Tensor, y: torch.Tensor, half_x: float, half_y: float) -> torch.Tensor:
    return torch.maximum(x.abs() - half_x, y.abs() - half_y)


def _shape_distance(shape: str, x: torch.Tensor, y: torch.Tensor, radius: float) -> torch.Tensor:
    """Signed distance to the shape's edge, negative inside; `x`, `y` relative to its centre."""
    if shape == "circle":
        return torch.hypot(x, y) - radius
    if shape == "square":
        return _box(x, y, 0.86 * radius, 0.86 * radius)
    if shape == "triangle":
        slope_x, slope_y = math.cos(math.pi / 6), math.sin(math.pi / 6)
        sides = slope_x * x.abs() - slope_y * y
        return torch.maximum(sides, y) - 0.62 * radius
    if shape == "cross":
        bar = 0.34 * radius
        return torch.minimum(_box(x, y, radius, bar), _box(x, y, bar, radius))
    raise ValueError(f"shape: expected circle, square, triangle or cross, got {shape!r}")


def _uniform(generator: torch.Generator, low: float, high: float, count: int = 1) -> torch.Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)


def _background(
    x: torch.Tensor, y: torch.Tensor, time: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """[3, F, S, S]: a colour gradient with stripes that drift by a fraction of their period."""
    base = _uniform(generator, -0.7, -0.2) + _uniform(generator, -0.15, 0.15, 3)
    tilt = _uniform(generator, -0.25, 0.25, 3)
    angles = _uniform(generator, 0.0, 2 * math.pi, 3).tolist()
    stripes_per_unit = _uniform(generator, 0.6, 1.1).item()
    drift = _uniform(generator, 0.2, 0.6).item()
    along_tilt = math.cos(angles[0]) * x + math.sin(angles[0]) * y
    along_stripes = math.cos(angles[1]) * x + math.sin(angles[1]) * y
    phase = 2 * math.pi * (stripes_per_unit * along_stripes - drift * time)
    stripes = 0.12 * torch.sin(phase + angles[2])
    column = (3, 1, 1, 1)
    return base.view(column) + tilt.view(column) * along_tilt + stripes


def render(
    scene: Scene, generator: torch.Generator, frames: int = FRAMES, size: int = FRAME_SIZE
) -> torch.Tensor:
    """One video [3, frames, size, size] f32 in [-1, 1]; place, speed and background are random."""
    centres = (torch.arange(size) + 0.5) * (2 / size) - 1
    time = torch.linspace(-0.5, 0.5, frames).view(frames, 1, 1)
    y, x = centres.view(1, size, 1), centres.view(1, 1, size)

    radius = RADII[scene.size] * _uniform(generator, 0.92, 1.08).item()
    step_x, step_y = STEPS[scene.direction]
    travel = _uniform(generator, 0.7, 0.9).item()
    room = 0.95 - radius
    along = _uniform(generator, -1.0, 1.0).item() * max(room - travel / 2, 0.0)
    across = _uniform(generator, -1.0, 1.0).item() * room
    middle_x = step_x * along + abs(step_y) * across
    middle_y = step_y * along + abs(step_x) * across

    distance = _shape_distance(
        scene.shape,
        x - middle_x - step_x * travel * time,
        y - middle_y - step_y * travel * time,
        radius,
    )
    coverage = (0.5 - distance * (size / 2)).clamp(0, 1)
    colour = torch.tensor(RGB[scene.colour]).view(3, 1, 1, 1)
    background = _background(x, y, time, generator)
    return (background + coverage * (colour - background)).clamp(-1, 1)


def sample_batch(
    count: int, generator: torch.Generator, frames: int = FRAMES, size: int = FRAME_SIZE
) -> Batch:
    """`count` videos of scenes drawn uniformly; the generator's state decides everything."""
    picks = torch.randint(len(ALL_SCENES), (count,), generator=generator).tolist()
    scenes = tuple(ALL_SCENES[pick] for pick in picks)
    videos = torch.stack([render(scene, generator, frames, size) for scene in scenes])
    return Batch(videos, scenes)
