"""An automatic judge: does a video show what its prompt says, all the way through?

Pixels that differ from the background by more than `CONTRAST` are foreground; the largest connected
part of it is the object. A video passes if all five hold:

    colour       the object's median colour is nearest to the prompt's of the palette
    shape        of the four ideal shapes, moved and scaled to overlap best, the prompt's overlaps
                 most in 80 % of the frames, with a mean IoU of 0.85 or more
    size         the object's width by its area is on the prompt's side of the two widths' mean
    motion       the centres lie on a straight line at constant speed within 1.5 pixels (root mean
                 square), and the speed is within the scenes' range, half to 1.5 times
    persistence  every frame has the object, with 0.65 to 1.5 of its median area and 85 % or more
                 of the foreground
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F

from .scenes import (
    COLOURS,
    EXTENTS,
    FRAME_SIZE,
    SHAPES,
    SPEEDS,
    Scene,
    background,
    shape_mask,
)

CONTRAST = 0.6
"""Distance in RGB of [-1, 1]; the colours are 1.5 or more from the background."""
LEAST_PIXELS = 20
_CENTRES = torch.arange(FRAME_SIZE) + 0.5


@dataclass(frozen=True)
class Verdict:
    """What the judge says about one video; `iou` is the mean overlap with the prompt's shape."""

    colour: bool
    shape: bool
    size: bool
    motion: bool
    persistence: bool
    iou: float
    seen: str

    @property
    def passed(self) -> bool:
        return self.colour and self.shape and self.size and self.motion and self.persistence


CHECKS = ("colour", "shape", "size", "motion", "persistence")


def largest_parts(foreground: torch.Tensor) -> torch.Tensor:
    """The largest 8-connected part of each mask [F, H, W], as masks."""
    labels = torch.arange(1, foreground[0].numel() + 1.0).view_as(foreground[0]) * foreground
    while True:
        spread = F.max_pool2d(labels[:, None], 3, 1, 1)[:, 0] * foreground
        if torch.equal(spread, labels):
            break
        labels = spread
    masks = []
    for frame in labels:
        values, counts = frame[frame > 0].unique(return_counts=True)
        masks.append(
            frame == values[counts.argmax()] if len(values) else torch.zeros_like(frame) > 0
        )
    return torch.stack(masks)


def _template(shape: str, x: float, y: float, extent: float) -> torch.Tensor:
    """[H, W] mask of an ideal shape; `x`, `y` the middle of its bounding square in pixels."""
    return shape_mask(shape, _CENTRES[None, :] - x, _CENTRES[:, None] - y, extent) < 0


def _unit_geometry(shape: str) -> tuple[float, float]:
    """Area / extent^2, and how far the centroid is below the middle, / extent."""
    grid = (torch.arange(1000) + 0.5) / 1000 - 0.5
    inside = shape_mask(shape, grid[None, :], grid[:, None], 1.0) < 0
    rows = inside.sum(1) / inside.sum()
    return inside.float().mean().item(), (rows * grid).sum().item()


_GEOMETRY = {shape: _unit_geometry(shape) for shape in SHAPES}


def overlap(mask: torch.Tensor, shape: str) -> float:
    """Best IoU of `mask` [H, W] and the ideal shape of its area, over small moves and scales."""
    area, offset = _GEOMETRY[shape]
    weights = mask / mask.sum()
    middle_x, middle_y = (weights.sum(0) @ _CENTRES).item(), (weights.sum(1) @ _CENTRES).item()
    best = 0.0
    for scale in (0.94, 1.0, 1.06):
        extent = scale * math.sqrt(mask.sum().item() / area)
        for step_x in (-1.0, 0.0, 1.0):
            for step_y in (-1.0, 0.0, 1.0):
                ideal = _template(
                    shape, middle_x + step_x, middle_y + step_y - offset * extent, extent
                )
                best = max(best, ((ideal & mask).sum() / (ideal | mask).sum()).item())
    return best


def _steady(centres: torch.Tensor) -> tuple[bool, float]:
    """Whether `centres` [F, 2] move in a line at constant speed; that speed in pixels a frame."""
    time = torch.arange(len(centres), dtype=torch.float32)
    time -= time.mean()
    velocity = (time[:, None] * centres).sum(0) / time.pow(2).sum()
    rest = centres - centres.mean(0) - time[:, None] * velocity
    speed = velocity.norm().item()
    close = rest.pow(2).sum(1).mean().sqrt().item() <= 1.5
    return close and 0.5 * SPEEDS[0] <= speed <= 1.5 * SPEEDS[1], speed


def judge(video: torch.Tensor, scene: Scene) -> Verdict:
    """The verdict on a video [3, F, 64, 64] in [-1, 1] (values outside are clipped)."""
    frames = video.float().clamp(-1, 1).movedim(0, -1)
    ground = background().movedim(0, -1)
    foreground = (frames - ground).norm(dim=-1) > CONTRAST
    masks = largest_parts(foreground)
    areas = masks.sum((1, 2)).float()
    if areas.min() < LEAST_PIXELS:
        missing = int((areas < LEAST_PIXELS).sum())
        return Verdict(
            *[False] * 5, iou=0.0, seen=f"no object in {missing} of {len(frames)} frames"
        )
    insides = F.avg_pool2d(masks[:, None].float(), 3, 1, 1)[:, 0] > 0.99
    colours = [
        frame[inside if inside.any() else mask].median(0).values
        for frame, inside, mask in zip(frames, insides, masks, strict=True)
    ]
    colour = torch.stack(colours).median(0).values
    seen_colour = min(
        COLOURS, key=lambda name: (colour - torch.tensor(COLOURS[name])).norm().item()
    )
    overlaps = torch.tensor([[overlap(mask, shape) for shape in SHAPES] for mask in masks])
    asked = SHAPES.index(scene.shape)
    winners = overlaps.argmax(1)
    iou = overlaps[:, asked].mean().item()
    median = areas.median()
    extent = math.sqrt(median.item() / _GEOMETRY[scene.shape][0])
    seen_size = "small" if extent < math.sqrt(math.prod(EXTENTS.values())) else "big"
    centres = torch.stack([masks.sum(axis).float() @ _CENTRES for axis in (1, 2)], dim=-1)
    centres /= areas[:, None]
    steady, speed = _steady(centres)
    whole = areas / foreground.sum((1, 2))
    return Verdict(
        colour=seen_colour == scene.colour,
        shape=bool((winners == asked).float().mean() >= 0.8 and iou >= 0.85),
        size=seen_size == scene.size,
        motion=steady,
        persistence=bool(
            (areas >= 0.65 * median).all()
            and (areas <= 1.5 * median).all()
            and (whole >= 0.85).all()
        ),
        iou=iou,
        seen=f"{seen_colour} {SHAPES[winners.mode().values]} {extent:.0f} px,"
        f" {speed:.1f} px a frame",
    )


def table(verdicts: Sequence[Verdict], scenes: Sequence[Scene]) -> str:
    """A Markdown table, a line a video, and the totals."""
    lines = [
        f"| prompt | {' | '.join(CHECKS)} | IoU | seen |",
        "|---" * (len(CHECKS) + 3) + "|",
    ]
    for verdict, scene in zip(verdicts, scenes, strict=True):
        marks = " | ".join("yes" if asdict(verdict)[check] else "no" for check in CHECKS)
        lines.append(f"| {scene.prompt} | {marks} | {verdict.iou:.2f} | {verdict.seen} |")
    totals = " | ".join(str(sum(asdict(v)[check] for v in verdicts)) for check in CHECKS)
    passed = sum(verdict.passed for verdict in verdicts)
    mean = sum(verdict.iou for verdict in verdicts) / len(verdicts)
    lines.append(f"| of {len(verdicts)} | {totals} | {mean:.2f} | {passed} pass on everything |")
    return "\n".join(lines) + "\n"
