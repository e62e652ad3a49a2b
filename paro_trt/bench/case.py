"""One call of the op, described by its shape and content, and random inputs for it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch

from ..op.mask import pack_block_mask, tile_order
from ..op.spec import AttentionConfig, AttentionInputs, block_count


@dataclass(frozen=True)
class OpCase:
    """Shape and content of one call of the op.

    density: share of key blocks attended, drawn per block; the diagonal is kept unless
    `empty_rows`, which also clears whole mask rows. key_length: per sample, None for all tokens.
    What the config uses of version 2 is drawn too: half of all blocks are fine or exact as well,
    every other head is corrected, 0 to 3 blocks are chosen at run time, and every other key/value
    head is rotated.
    """

    name: str
    tokens: int
    batch: int = 1
    heads: int = 2
    kv_heads: int = 2
    head_dim: int = 64
    bins: int = 1
    density: float = 0.4
    key_length: tuple[int, ...] | None = None
    empty_rows: bool = False
    dtype: torch.dtype = torch.float32
    config: AttentionConfig = field(default_factory=AttentionConfig)

    def with_bits(self, qk_bits: int, pv_bits: int, pool_dropped: bool) -> OpCase:
        """The same case at other bit widths, named after them."""
        config = replace(self.config, qk_bits=qk_bits, pv_bits=pv_bits, pool_dropped=pool_dropped)
        pooled = "pooled" if pool_dropped else "dropped"
        return replace(self, name=f"{self.name}-qk{qk_bits}-pv{pv_bits}-{pooled}", config=config)


def random_inputs(case: OpCase, seed: int) -> AttentionInputs:
    """Fresh inputs of a case: means off zero, channels of unequal size, random orders."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    def activations(heads: int, offset: float) -> torch.Tensor:
        channel = normal(heads, case.head_dim)
        size = 1.0 + 0.5 * normal(heads, case.head_dim).abs()
        x = normal(case.batch, case.tokens, heads, case.head_dim) * size + offset * channel
        return x.to(case.dtype)

    orders = torch.stack([torch.randperm(case.tokens, generator=generator) for _ in range(3)])
    group = torch.randint(0, 3, (case.kv_heads,), generator=generator)
    query, key = activations(case.heads, 0.3), activations(case.kv_heads, 0.5)
    value = activations(case.kv_heads, 0.7)
    words = pack_block_mask(_random_mask(case, seed))
    affine = torch.stack(
        [
            key.float().mean((0, 1)),
            0.5 + torch.rand(case.kv_heads, case.head_dim, generator=generator),
            value.float().mean((0, 1)),
            0.5 + torch.rand(case.kv_heads, case.head_dim, generator=generator),
        ]
    )
    lengths = case.key_length or (case.tokens,) * case.batch
    rng = np.random.default_rng(seed + 1)
    fine_mask = corrected_heads = dynamic_blocks = rotation = None
    if case.config.fine_summaries:
        fine_mask = torch.from_numpy(pack_block_mask(rng.random(_mask_shape(case)) < 0.5))
    if case.config.mean_correction:
        corrected_heads = torch.arange(case.heads).remainder(2).int()
    if case.config.routing:
        most = min(3, block_count(case.tokens, case.config.block_k))
        drawn = rng.integers(0, most + 1, (case.bins, case.heads), dtype=np.int32)
        dynamic_blocks = torch.from_numpy(drawn)
    if case.config.smoothing:
        signs = rng.integers(0, 2, (case.kv_heads, case.head_dim), dtype=np.int32) * 2 - 1
        signs[1::2] = 0
        rotation = torch.from_numpy(signs)
    return AttentionInputs(
        query,
        key,
        value,
        orders.int(),
        group.repeat_interleave(case.heads // case.kv_heads).int(),
        torch.from_numpy(words),
        torch.from_numpy(tile_order(words)),
        affine,
        torch.arange(case.batch).remainder(case.bins).int(),
        torch.tensor(lengths, dtype=torch.int32),
        fine_mask,
        corrected_heads,
        dynamic_blocks,
        rotation,
    )


def _mask_shape(case: OpCase) -> tuple[int, int, int, int]:
    """[T, H, NQ, NK]."""
    query_blocks = block_count(case.tokens, case.config.block_q)
    return case.bins, case.heads, query_blocks, block_count(case.tokens, case.config.block_k)


def _random_mask(case: OpCase, seed: int) -> np.ndarray:
    """bool [T, H, NQ, NK]."""
    rng = np.random.default_rng(seed)
    shape = _mask_shape(case)
    query_blocks = shape[2]
    mask = rng.random(shape) < case.density
    if case.empty_rows:
        mask[:, :, ::2] = False
    else:
        starts = np.arange(query_blocks) * case.config.block_q // case.config.block_k
        mask[:, :, np.arange(query_blocks), starts] = True
    return mask
