"""Where the benchmark's attention calls come from: captures of one kind, in splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

import torch
from torch import Tensor

from paro_trt.calibration.inputs import HeadInputs
from paro_trt.calibration.orders import candidate_orders
from paro_trt.calibration.select_mask import forced_blocks
from paro_trt.calibration.statistics import Tiling
from paro_trt.op.spec import CORRECTION_ROWS
from paro_trt.plan import Grid, TextLayout

BLOCK_Q, BLOCK_K = 64, 64
"""Tokens in the blocks that a choice is made for; policies of 128 rows choose for two at once."""

BLOCKS_PER_RUN = CORRECTION_ROWS // BLOCK_Q


class Split(str, Enum):
    """What captures are for.

    CALIBRATION: masks are made of them. VALIDATION: options of a head are decided on them.
    HELDOUT: errors are measured on them: other prompts and seeds. RESEEDED: the held-out prompts
    under other seeds, for masks of the same prompts.
    """

    CALIBRATION = "calibration"
    VALIDATION = "validation"
    HELDOUT = "heldout"
    RESEEDED = "reseeded"


@dataclass(frozen=True, eq=False)
class LayerCall:
    """One attention layer in one call of a model; equal to itself alone, so that what is computed
    of it can be kept.

    half: 0 or 1, of the schedule; prompt: index in its split; query, key, value: f32 [S, H, D]
    after RoPE and norm; scale: on the logits.
    """

    layer: int
    half: int
    prompt: int
    query: Tensor
    key: Tensor
    value: Tensor
    scale: float

    @property
    def heads(self) -> int:
        """H."""
        return self.query.shape[1]

    def head(self, index: int) -> HeadInputs:
        """Inputs of one head."""
        parts = (self.query, self.key, self.value)
        return HeadInputs(*(part[:, index].contiguous() for part in parts), self.scale)


@dataclass(frozen=True, eq=False)
class Source:
    """Captured calls of one model or generator.

    Args:
        name: for tables.
        grid: of the visual tokens.
        text: of tokens that join them.
        runs: runs of 128 rows, in the order of a head, that are judged; all, or a sample.
        calls: in splits.
    """

    name: str
    grid: Grid
    text: TextLayout
    runs: tuple[int, ...]
    calls: Mapping[Split, Sequence[LayerCall]]

    @property
    def tokens(self) -> int:
        """S."""
        return self.grid.tokens + self.text.count

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that were captured."""
        return tuple(sorted({call.layer for call in self.calls[Split.CALIBRATION]}))

    @property
    def halves(self) -> tuple[int, ...]:
        """The halves of the schedule that were captured."""
        return tuple(sorted({call.half for call in self.calls[Split.CALIBRATION]}))

    @cached_property
    def orders(self) -> dict[str, Tensor]:
        """The candidate orders by name, int64 [S] each; the identity is the first."""
        found = candidate_orders(self.grid, self.text)
        return {order.name: torch.from_numpy(order.permutation).long() for order in found}

    def query_blocks(self, block_q: int = BLOCK_Q) -> Tensor:
        """The blocks of `block_q` rows that are judged, int64 [n]."""
        width = CORRECTION_ROWS // block_q
        return (torch.tensor(self.runs)[:, None] * width + torch.arange(width)).flatten()

    def forced(self, block_q: int) -> Tensor:
        """bool [n, NK]: blocks that every mask attends, the diagonal and text keys."""
        tiling = Tiling(block_q, BLOCK_K)
        forced = torch.from_numpy(forced_blocks(self.tokens, self.text, tiling))
        return forced[self.query_blocks(block_q)]

    def of(self, split: Split, layer: int, half: int | None = None) -> list[LayerCall]:
        """The calls of a split in a layer, of one half of the schedule or both."""
        return [
            call for call in self.calls[split] if call.layer == layer and half in (None, call.half)
        ]
