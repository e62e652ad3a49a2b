"""Smooth random fields as queries, keys and values: 8,320 tokens, 128 of them text.

A head's structure is its length scales along frames, rows and columns and how sharp its attention
is. Every capture draws the fields anew, as another prompt would.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from paro_trt.plan import Grid, TextLayout, TextPosition

from .sources import LayerCall, Source, Split

GRID = Grid(8, 32, 32)
TEXT_TOKENS = 128
CHANNELS = 64
VALUE_SCALES = (3.0, 5.0, 5.0)
NOISE = 0.5
"""Of keys, queries and values, relative to the fields."""

CAPTURES = {Split.CALIBRATION: 3, Split.VALIDATION: 1, Split.HELDOUT: 6}
JUDGED_RUNS = range(2, 65, 5)
"""Of the 65 runs of 128 rows."""


class HeadStructure(NamedTuple):
    """Length scales in tokens along (frames, rows, columns), and the factor on the queries."""

    scales: tuple[float, float, float]
    sharpness: float


LAYERS: tuple[tuple[HeadStructure, ...], ...] = (
    (HeadStructure((4, 1.5, 4), 1.0), HeadStructure((8, 2, 2), 1.5)),
    (HeadStructure((3, 3, 3), 1.0), HeadStructure((3, 3, 3), 1.5)),
    (HeadStructure((2, 8, 2), 1.5), HeadStructure((4, 4, 1.5), 0.7)),
)


def synthetic_source() -> Source:
    """The captures; the same for everyone."""
    calls: dict[Split, list[LayerCall]] = {split: [] for split in Split}
    for layer, heads in enumerate(LAYERS):
        for number, split in enumerate(CAPTURES):
            for index in range(CAPTURES[split]):
                seed = 10_000 * layer + 1_000 * number + index
                drawn = draw_call(layer, heads, index, seed, GRID, TEXT_TOKENS)
                calls[split].append(drawn)
    text = TextLayout(TEXT_TOKENS, TextPosition.LAST)
    return Source("synthetic fields", GRID, text, tuple(JUDGED_RUNS), calls)


def draw_call(
    layer: int,
    heads: Sequence[HeadStructure],
    prompt: int,
    seed: int,
    grid: Grid,
    text_tokens: int,
) -> LayerCall:
    """A capture of a layer of these heads; other seeds have other fields of the same structure.

    Args:
        layer, prompt: of the capture.
        heads: their structure.
        seed: of the fields.
        grid: of the visual tokens.
        text_tokens: after them, independent of each other.
    """
    drawn = [_draw_head(head, seed + 100 * i, grid, text_tokens) for i, head in enumerate(heads)]
    query, key, value = (torch.stack(parts, dim=1) for parts in zip(*drawn, strict=True))
    return LayerCall(layer, 0, prompt, query, key, value, CHANNELS**-0.5)


def _draw_head(
    head: HeadStructure, seed: int, grid: Grid, text_tokens: int
) -> tuple[Tensor, Tensor, Tensor]:
    """query, key, value [S, D]."""
    generator = torch.Generator().manual_seed(seed)
    fields = {scales: _field(scales, generator, grid) for scales in (head.scales, VALUE_SCALES)}

    def noisy(scales: tuple[float, float, float]) -> Tensor:
        text = torch.randn(text_tokens, CHANNELS, generator=generator)
        clean = torch.cat([fields[scales], text])
        return clean + NOISE * torch.randn(clean.shape, generator=generator)

    query = head.sharpness * noisy(head.scales)
    return query, noisy(head.scales), noisy(VALUE_SCALES)


def _field(scales: tuple[float, float, float], generator: torch.Generator, grid: Grid) -> Tensor:
    """[tokens, D], unit variance: a cosine of a random direction for each channel."""
    sizes = (grid.frames, grid.height, grid.width)
    places = torch.cartesian_prod(*(torch.arange(size, dtype=torch.float32) for size in sizes))
    waves = torch.randn(3, CHANNELS, generator=generator) / torch.tensor(scales)[:, None]
    phases = torch.rand(CHANNELS, generator=generator) * 2 * math.pi
    return math.sqrt(2) * torch.cos(places @ waves + phases)
