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


SHARED_TAIL = 1024
"""Tiles at the end of a schedule that heads share: three for each thread block that the largest
GPUs run at once."""


def tile_order(words: NDArray[np.int32]) -> NDArray[np.int32]:
    """Schedule of the (head, query block) pairs of each bin.

    Heads come one after the other, so that a head's keys and values stay in the cache while its
    query blocks run. Within a head, those with most attended key blocks come first. The
    `SHARED_TAIL` shortest pairs of all heads come last, again the longest first, so that all
    thread blocks end at nearly the same time.

    Args:
        words: packed block mask int32 [T, H, NQ, W].

    Returns:
        int32 [T, H*NQ]: indices h*NQ + query_block; ties keep their natural order. A schedule only;
        it has no effect on the op's result.
    """
    attended = np.bitwise_count(words.view(np.uint32)).sum(axis=-1, dtype=np.int64)
    bins, heads, query_blocks = attended.shape
    shortest_last = -attended.reshape(bins, -1)
    tail = np.argsort(shortest_last, axis=-1, kind="stable")[:, -SHARED_TAIL:]
    group = np.tile(np.repeat(np.arange(heads), query_blocks), (bins, 1))
    np.put_along_axis(group, tail, heads, axis=-1)
    return np.lexsort((shortest_last, group), axis=-1).astype(np.int32)
