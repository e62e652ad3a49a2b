"""Calls of the op of random shape, mask, precision and padding."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import torch

from paro_trt.op.spec import AttentionConfig
from tests.support.cases import OpCase


def random_case(rng: random.Random, dtypes: Sequence[torch.dtype], most_tokens: int) -> OpCase:
    """A case of 1 to `most_tokens` tokens, of one of the types."""
    tokens, batch, kv_heads = rng.randint(1, most_tokens), rng.randint(1, 2), rng.randint(1, 2)
    config = AttentionConfig(
        block_q=rng.choice((64, 128)),
        block_k=rng.choice((64, 128)),
        qk_bits=rng.choice((16, 8, 4)),
        pv_bits=rng.choice((16, 8, 4)),
        pool_dropped=rng.random() < 0.5,
        scale=rng.choice((0.0, 0.05, 0.4)),
    )
    return OpCase(
        "random",
        tokens,
        batch=batch,
        heads=kv_heads * rng.randint(1, 3),
        kv_heads=kv_heads,
        head_dim=rng.choice((64, 128)),
        bins=rng.randint(1, 3),
        density=rng.random(),
        key_length=tuple(rng.randint(0, tokens) for _ in range(batch)),
        empty_rows=rng.random() < 0.2,
        dtype=rng.choice(dtypes),
        config=config,
    )


def with_version_2(case: OpCase, rng: random.Random) -> OpCase:
    """The same case with some of what version 2 of the op adds, or nothing of it."""
    config = replace(
        case.config,
        fine_summaries=case.config.pool_dropped and rng.random() < 0.7,
        mean_correction=rng.random() < 0.5,
        routing=rng.random() < 0.5,
    )
    return replace(case, config=config)


def with_smoothing(case: OpCase, rng: random.Random) -> OpCase:
    """The same case, smoothed every other time if it can be."""
    smoothing = case.config.qk_bits == 4 and rng.random() < 0.5
    return replace(case, config=replace(case.config, smoothing=smoothing))
