"""The small fields that tests of the quality benchmark share."""

from __future__ import annotations

from paro_trt.plan import Grid, TextLayout, TextPosition
from samples.benchmarks.quality.synthetic import HeadStructure

GRID, TEXT = Grid(4, 8, 32), TextLayout(128, TextPosition.LAST)
TOKENS = GRID.tokens + TEXT.count
HEADS = (HeadStructure((4, 1.5, 4), 1.5), HeadStructure((3, 3, 3), 2.0))
COSTS = (0.6, 0.45, 0.37)
"""Above the forced blocks of 128 rows: the diagonal and the text."""
