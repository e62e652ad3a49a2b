"""What the attention benchmark runs, most important first: a run that is cut has the targets."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from paro_trt.bench.case import OpCase
from paro_trt.bench.measure import Group
from paro_trt.op.spec import AttentionConfig

DENSITIES = (1.0, 0.5, 0.3, 0.25, 0.2)
BLOCK_Q = 128


@dataclass(frozen=True)
class Layer:
    """One attention layer of a model, batch 1.

    grid: frames, rows and columns of the visual tokens; text tokens follow them. model: the one
    that has this layer, or a layer with as many channels in heads of another size.
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
        visual = torch.arange(math.prod(self.grid))
        reversed_axes = visual.view(self.grid).permute(2, 1, 0).reshape(-1)
        text = torch.arange(len(visual), self.tokens)
        rows = [torch.cat([order, text]) for order in (visual, reversed_axes)]
        return torch.stack(rows).int()


COGVIDEOX = Layer((13, 30, 45), 226, 48, 64, "CogVideoX-5B, 480 x 720, 49 frames")
WAN_480P = Layer((21, 30, 52), 0, 40, 128, "Wan 14B, 480p, 81 frames")
WAN_720P = Layer((21, 45, 80), 0, 40, 128, "Wan 14B, 720p, 81 frames")
FLUX = Layer((1, 64, 64), 512, 24, 128, "Flux, 1024 x 1024")


def group_of(
    layer: Layer,
    bits: tuple[int, ...],
    densities: tuple[float, ...],
    block_k: int = 64,
    peers: bool = False,
    pooled: bool = False,
    version_2: bool = False,
) -> Group:
    """Dense baselines and the library in bfloat16.

    Args:
        layer: whose tokens every other head reorders.
        bits: of both products.
        densities: of the masks.
        block_k: of the masks.
        peers: FlexAttention with the same masks, and SageAttention where it is installed.
        pooled: blocks that a mask drops become summary tokens, which stage 1 prepares as well.
        version_2: pooled, with as many fine blocks as exact ones, every other head corrected, and
            query blocks of 64 rows, as `calibrate --cost` makes plans.
    """
    block_q = 64 if version_2 else BLOCK_Q
    blocks = f"{'+'.join(map(str, bits))} bits, {block_q} x {block_k} blocks"
    shares = ",".join(f"{density:g}" for density in densities)
    case = OpCase(
        f"{layer.name}, {blocks}, density {shares}{', peers' * peers}{', pooled' * pooled}"
        f"{', version 2' * version_2}",
        layer.tokens,
        heads=layer.heads, kv_heads=layer.heads, head_dim=layer.head_dim, dtype=torch.bfloat16,
        config=AttentionConfig(
            block_q, block_k, pool_dropped=pooled or version_2, fine_summaries=version_2,
            mean_correction=version_2,
        ),
    )  # fmt: skip
    precisions = tuple((torch.bfloat16, each) for each in bits)
    return Group(case, precisions, densities, layer.orders, flex=peers, sage=peers)


def plan() -> list[Group]:
    """All groups; their names are unique."""
    targets, others = (1.0, 0.25), (0.5, 0.3, 0.2)
    main = (COGVIDEOX, WAN_480P, WAN_720P)
    groups = [group_of(layer, (8,), targets) for layer in main]
    groups += [group_of(layer, (8,), (0.25,), pooled=True) for layer in (COGVIDEOX, WAN_480P)]
    groups += [group_of(layer, (8, 4), (0.2,), version_2=True) for layer in (COGVIDEOX, WAN_480P)]
    groups += [group_of(layer, (8,), others) for layer in main]
    groups += [group_of(layer, (8,), targets, block_k=128) for layer in main]
    groups += [group_of(layer, (8, 4), (0.2,), 128, version_2=True) for layer in main]
    groups += [group_of(FLUX, (8,), DENSITIES)]
    groups += [group_of(layer, (16,), targets) for layer in (*main, FLUX)]
    groups += [group_of(layer, (8,), (0.25,), peers=True) for layer in (COGVIDEOX, WAN_480P)]
    groups += [group_of(with_other_heads(layer), (8, 16), targets) for layer in (FLUX, *main)]
    groups += [group_of(layer, (16,), others) for layer in (FLUX, *main)]
    groups += [group_of(with_other_heads(layer), (8, 16), others) for layer in (FLUX, *main)]
    return groups


def with_other_heads(layer: Layer) -> Layer:
    """As many channels in heads of 64 instead of 128, or of 128 instead of 64."""
    factor = layer.head_dim / 64
    heads = round(layer.heads * (factor if factor == 2 else 0.5))
    head_dim = 192 - layer.head_dim
    return Layer(layer.grid, layer.text, heads, head_dim, f"{layer.model}, other heads")
