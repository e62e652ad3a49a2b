"""What the attention benchmark runs, most important first: a run that is cut has the targets."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

DENSITIES = (1.0, 0.5, 0.3, 0.25, 0.2)
BLOCK_Q = 128


@dataclass(frozen=True)
class Shape:
    """One attention layer, batch 1.

    grid: frames, rows and columns of the visual tokens; text tokens follow them. model: whose
    layer it is, or which one's with as many channels in heads of another size.
    """

    grid: tuple[int, int, int]
    text: int
    heads: int
    head_dim: int
    model: str

    @property
    def tokens(self) -> int:
        """Visual and text tokens."""
        return math.prod(self.grid) + self.text

    @property
    def name(self) -> str:
        """Tokens x heads x head_dim."""
        return f"{self.tokens:,} x {self.heads} x {self.head_dim}"

    def orders(self) -> Tensor:
        """int32 [2, S]: tokens as they are, and the grid's axes reversed."""
        import torch  # the table needs none

        visual = torch.arange(math.prod(self.grid))
        reversed_axes = visual.view(self.grid).permute(2, 1, 0).reshape(-1)
        text = torch.arange(len(visual), self.tokens)
        rows = [torch.cat([order, text]) for order in (visual, reversed_axes)]
        return torch.stack(rows).int()

    def dense_operations(self) -> float:
        """Multiplications and additions of both products without a mask."""
        return 4.0 * self.tokens**2 * self.head_dim * self.heads


COGVIDEOX = Shape((13, 30, 45), 226, 48, 64, "CogVideoX-5B, 480 x 720, 49 frames")
WAN_480P = Shape((21, 30, 52), 0, 40, 128, "Wan 14B, 480p, 81 frames")
WAN_720P = Shape((21, 45, 80), 0, 40, 128, "Wan 14B, 720p, 81 frames")
FLUX = Shape((1, 64, 64), 512, 24, 128, "Flux, 1024 x 1024")


@dataclass(frozen=True)
class Group:
    """What is timed in turns: dense baselines, and ours at these bits and densities.

    block_k: of the masks; 8-bit kernels take a step a block. peers: FlexAttention with the same
    masks, and SageAttention where it is installed.
    """

    shape: Shape
    bits: tuple[int, ...]
    densities: tuple[float, ...]
    block_k: int = 64
    peers: bool = False

    @property
    def name(self) -> str:
        """Unique within `plan`."""
        bits = f"{'+'.join(map(str, self.bits))} bits, {BLOCK_Q} x {self.block_k} blocks"
        densities = ",".join(f"{density:g}" for density in self.densities)
        return f"{self.shape.name}, {bits}, density {densities}{', peers' * self.peers}"


def plan() -> list[Group]:
    """All groups."""
    targets, others = (1.0, 0.25), (0.5, 0.3, 0.2)
    main = (COGVIDEOX, WAN_480P, WAN_720P)
    groups = [Group(shape, (8,), targets) for shape in main]
    groups += [Group(shape, (8,), others) for shape in main]
    groups += [Group(shape, (8,), targets, block_k=128) for shape in main]
    groups += [Group(FLUX, (8,), DENSITIES)]
    groups += [Group(shape, (16,), targets) for shape in (*main, FLUX)]
    groups += [Group(shape, (8,), (0.25,), peers=True) for shape in (COGVIDEOX, WAN_480P)]
    groups += [Group(with_other_heads(shape), (8, 16), targets) for shape in (FLUX, *main)]
    groups += [Group(shape, (16,), others) for shape in (FLUX, *main)]
    groups += [Group(with_other_heads(shape), (8, 16), others) for shape in (FLUX, *main)]
    return groups


def with_other_heads(shape: Shape) -> Shape:
    """As many channels in heads of 64 instead of 128, or of 128 instead of 64."""
    factor = shape.head_dim / 64
    heads = round(shape.heads * (factor if factor == 2 else 0.5))
    head_dim = 192 - shape.head_dim
    return Shape(shape.grid, shape.text, heads, head_dim, f"{shape.model}, other heads")
