"""The bit widths that are compared."""

from __future__ import annotations

from typing import NamedTuple

from paro_trt.op.spec import AttentionConfig

BLOCK_Q, BLOCK_K = 128, 64
DENSITY = 0.3


class Bits(NamedTuple):
    """Of a mode: bits of both products, and whether query x key is smoothed."""

    qk: int
    pv: int
    smoothed: bool = False

    def config(self, block_q: int = BLOCK_Q) -> AttentionConfig:
        """The op's attributes."""
        return AttentionConfig(
            block_q, BLOCK_K, self.qk, self.pv, pool_dropped=True, smoothing=self.smoothed
        )

    def __str__(self) -> str:
        return f"QK {self.qk}{' smoothed' if self.smoothed else ''}, PV {self.pv}"


EXACT = Bits(16, 16)

MODES = (
    Bits(8, 16), Bits(4, 16), Bits(4, 16, smoothed=True), Bits(16, 8), Bits(16, 4), Bits(8, 8),
    Bits(4, 8), Bits(4, 8, smoothed=True), Bits(4, 4, smoothed=True),
)  # fmt: skip
