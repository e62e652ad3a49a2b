"""Block masks as bits, and the schedule derived from them. NumPy only: plans use it without torch.

A mask row, one query block of one head in one bin, is W words of 32 key blocks each. Bit (k mod 32)
of word k // 32 says that key block k is attended; padding bits are 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .spec import MASK_WORD_BITS, mask_words


def pack_block_mask(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Pack a boolean mask [..., NK] into int32 words [..., ceil(NK/32)], padding bits 0."""
    key_blocks = mask.shape[-1]
    padded = np.zeros((*mask.shape[:-1], mask_words(key_blocks) * MASK_WORD_BITS), dtype=np.uint8)
    padded[..., :key_blocks] = mask
    octets = np.packbits(padded, axis=-1, bitorder="little")
    return octets.view("<u4").view(np.int32)


def unpack_block_mask(words: NDArray[np.int32], key_blocks: int) -> NDArray[np.bool_]:
    """Unpack int32 words [..., W] into a boolean mask [..., key_blocks]."""
    octets = np.ascontiguousarray(words).view("<u4").view(np.uint8)
    bits = np.unpackbits(octets, axis=-1, bitorder="little")
    return bits[..., :key_blocks].astype(bool)


def tile_order(words: NDArray[np.int32]) -> NDArray[np.int32]:
    """Longest-first schedule of the (head, query block) pairs of each bin.

    Args:
        words: packed block mask int32 [T, H, NQ, W].

    Returns:
        int32 [T, H*NQ]: indices h*NQ + query_block, most attended key blocks first; ties keep
        their natural order. A schedule only; it has no effect on the op's result.
    """
    attended = np.bitwise_count(words.view(np.uint32)).sum(axis=-1, dtype=np.int64)
    flat = attended.reshape(attended.shape[0], -1)
    return np.argsort(-flat, axis=-1, kind="stable").astype(np.int32)
