"""One table of op cases, by intent: every implementation of the op is tested on each of them."""

from __future__ import annotations

import torch

from paro_trt.bench.case import OpCase, random_inputs
from paro_trt.op.spec import AttentionConfig

__all__ = ["BIT_PAIRS", "CASES", "OpCase", "random_inputs"]

BIT_PAIRS = tuple((qk, pv) for qk in (16, 8, 4) for pv in (16, 8, 4))

_WIDE_KEYS = AttentionConfig(block_q=64, block_k=128)
_SQUARE = AttentionConfig(block_q=64, block_k=64)

CASES: tuple[OpCase, ...] = (
    OpCase("regular", 512),
    OpCase("head-dim-128", 256, head_dim=128, config=_SQUARE),
    OpCase("wide-key-blocks", 512, config=_WIDE_KEYS),
    OpCase("ragged", 331, config=_SQUARE),
    OpCase("grouped-queries", 300, heads=4, kv_heads=2, config=_SQUARE),
    OpCase("bins-per-sample", 256, batch=3, bins=3, config=_SQUARE),
    OpCase("padded", 320, batch=3, key_length=(320, 193, 64), config=_SQUARE),
    OpCase("all-padding", 200, batch=2, key_length=(0, 200), config=_SQUARE),
    OpCase("empty-rows", 384, empty_rows=True, config=_SQUARE),
    OpCase("one-head-one-block", 40, heads=1, kv_heads=1),
    OpCase("one-token", 1, heads=1, kv_heads=1),
    OpCase("full-density", 300, density=1.0),
    OpCase("half-precision", 256, dtype=torch.float16),
    OpCase("bfloat16", 256, dtype=torch.bfloat16),
)
