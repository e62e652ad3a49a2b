"""Scenes: a prompt such as "a big red ring", and videos that show it.

A video has 8 frames of 64 x 64 pixels, RGB in [-1, 1]. One shape moves in a straight line at a
constant speed over a background that never changes. Colour, shape and size are in the prompt;
place, direction and speed are free.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch

FRAMES = 8
FRAME_SIZE = 64
WHOLE = tuple(range(FRAMES))

# The four differ in most pixels of those tried; a disc and a square of equal area share 83 %.
SHAPES = ("square", "triangle", "cross", "ring")
EXTENTS = {"small": 22.0, "big": 34.0}
"""Width of a shape in pixels."""
COLOURS = {
    "red": (0.90, -0.75, -0.75),
    "green": (-0.60, 0.75, -0.70),
    "blue": (-0.50, 0.00, 0.95),
    "yellow": (0.95, 0.80, -0.70),
    "purple": (0.70, -0.70, 0.90),
    "white": (0.95, 0.95, 0.95),
}
SPEEDS = (1.6, 2.8)
"""Least and greatest distance in pixels from one frame to the next."""


@dataclass(frozen=True)
class Scene:
    """What a prompt says."""

    size: str
    colour: str
    shape: str

    @property
    def prompt(self) -> str:
        return f"a {self.size} {self.colour} {self.shape}"


WORDS = ("a", *EXTENTS, *COLOURS, *SHAPES)
ALL_SCENES = tuple(Scene(*words) for words in product(EXTENTS, COLOURS, SHAPES))


def scene_of(prompt: str) -> Scene:
    """The scene a prompt names; ValueError when it names none."""
    for scene in ALL_SCENES:
        if scene.prompt == prompt:
            return scene
    raise ValueError(
        f"prompt {prompt!r}: expected 'a SIZE COLOUR SHAPE' of the words {', '.join(WORDS)}"
    )


def _scenes(lines: str) -> tuple[Scene, ...]:
    return tuple(scene_of(f"a {line.strip()}") for line in lines.strip().splitlines())


HELDOUT_SCENES = _scenes("""
    big red square
    small green square
    big blue triangle
    small yellow triangle
    small red triangle
    big purple cross
    small white cross
    big green ring
    small blue ring
    big yellow ring
""")
"""Never trained on. Every word occurs in them, and in the others."""

TRAINING_SCENES = tuple(scene for scene in ALL_SCENES if scene not in HELDOUT_SCENES)

CALIBRATION_SCENES = _scenes("""
    big white square
    small blue square
    big green triangle
    small white triangle
    big yellow cross
    small red cross
    big purple ring
    small white ring
""")
"""Eight of the training scenes, to calibrate a plan on."""


def shape_mask(
    shape: str, x: torch.Tensor, y: torch.Tensor, extent: torch.Tensor | float
) -> torch.Tensor:
    """Signed distance in pixels to the edge, negative inside, of a shape `extent` pixels wide.

    `x` and `y` are pixels from the middle of the shape's bounding square, y downwards.
    """
    half = extent / 2
    if shape == "square":
        return torch.maximum(x.abs(), y.abs()) - half
    if shape == "triangle":
        # Apex on top, base as wide as the box, both sides of slope 2.
        sides = (2 * x.abs() - y - half) / math.sqrt(5)
        return torch.maximum(sides, y - half)
    if shape == "cross":
        across = torch.maximum(x.abs() - half, y.abs() - half / 3)
        upright = torch.maximum(x.abs() - half / 3, y.abs() - half)
        return torch.minimum(across, upright)
    if shape == "ring":
        distance = torch.hypot(x, y)
        return torch.maximum(distance - half, half / 2 - distance)
    raise ValueError(f"shape {shape!r}: expected one of {', '.join(SHAPES)}")


def background() -> torch.Tensor:
    """[3, 64, 64] f32: dark, brighter to the right, bluer to the bottom."""
    ramp = torch.linspace(0, 1, FRAME_SIZE)
    x, y = ramp.view(1, -1).expand(FRAME_SIZE, -1), ramp.view(-1, 1).expand(-1, FRAME_SIZE)
    return torch.stack([-0.85 + 0.35 * x, -0.85 + 0.35 * x, -0.75 + 0.35 * y])


@dataclass(frozen=True)
class Track:
    """Middle of the shape in every frame, pixels from the upper left corner: `x`, `y` [B, F]."""

    x: torch.Tensor
    y: torch.Tensor


def random_tracks(extents: torch.Tensor, generator: torch.Generator) -> Track:
    """Straight tracks inside the picture for shapes `extents` [B] pixels wide, F = `FRAMES`."""
    uniform = torch.rand(4, len(extents), generator=generator)
    speed = SPEEDS[0] + (SPEEDS[1] - SPEEDS[0]) * uniform[0]
    angle = 2 * math.pi * uniform[1]
    time = torch.arange(FRAMES) - (FRAMES - 1) / 2
    places = []
    for velocity, share in ((speed * angle.cos(), uniform[2]), (speed * angle.sin(), uniform[3])):
        room = (FRAME_SIZE - 2 - extents - velocity.abs() * (FRAMES - 1)) / 2
        middle = FRAME_SIZE / 2 + (2 * share - 1) * room
        places.append(middle[:, None] + velocity[:, None] * time)
    return Track(*places)


def render(
    scenes: Sequence[Scene], generator: torch.Generator, frames: Sequence[int] = WHOLE
) -> torch.Tensor:
    """One video a scene: [B, 3, F, 64, 64] f32 in [-1, 1]. The generator decides the rest.

    `frames` are the numbers of the F frames wanted, of the `FRAMES` a video has.
    """
    extents = torch.tensor([EXTENTS[scene.size] for scene in scenes])
    track = random_tracks(extents, generator)
    centres = torch.arange(FRAME_SIZE) + 0.5
    ground, picked = background()[:, None], list(frames)
    videos = []
    for index, scene in enumerate(scenes):
        distance = shape_mask(
            scene.shape,
            centres.view(1, 1, -1) - track.x[index, picked].view(-1, 1, 1),
            centres.view(1, -1, 1) - track.y[index, picked].view(-1, 1, 1),
            extents[index],
        )
        coverage = (0.5 - distance).clamp(0, 1)
        colour = torch.tensor(COLOURS[scene.colour]).view(3, 1, 1, 1)
        videos.append(ground + coverage * (colour - ground))
    return torch.stack(videos)


def pick_frames(count: int, generator: torch.Generator) -> tuple[int, ...]:
    """`count` different frame numbers of a video, in order."""
    return tuple(sorted(torch.randperm(FRAMES, generator=generator)[:count].tolist()))


def draw(
    count: int,
    generator: torch.Generator,
    frames: Sequence[int] = WHOLE,
    scenes: Sequence[Scene] = TRAINING_SCENES,
) -> tuple[torch.Tensor, list[Scene]]:
    """`count` videos [count, 3, F, 64, 64] of scenes drawn uniformly, and those scenes."""
    picks = torch.randint(len(scenes), (count,), generator=generator).tolist()
    chosen = [scenes[pick] for pick in picks]
    return render(chosen, generator, frames), chosen
