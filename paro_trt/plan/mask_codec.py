"""Block masks on disk: LZMA2 over the packed words. FORMAT.md has the measurements."""

from __future__ import annotations

import lzma

import numpy as np
from numpy.typing import NDArray

from ..errors import PlanError

# The stream carries no settings of its own, so a file cannot ask for a larger dictionary.
_DICTIONARY_BYTES = 8 << 20
_FILTERS = [
    {
        "id": lzma.FILTER_LZMA2,
        "preset": 6,
        "dict_size": _DICTIONARY_BYTES,
        "lc": 4,
        "lp": 0,
        "pb": 0,
        "nice_len": 128,
    }
]


def encode_mask(words: NDArray[np.int32]) -> bytes:
    """Compress packed masks int32 [T, H, NQ, W]."""
    # Rows of one query block are similar in all bins; stored next to each other they compress best.
    rows = np.ascontiguousarray(words.transpose(1, 2, 0, 3).astype("<i4", copy=False))
    return lzma.compress(rows.tobytes(), format=lzma.FORMAT_RAW, filters=_FILTERS)


def decode_mask(subject: str, data: bytes, shape: tuple[int, int, int, int]) -> NDArray[np.int32]:
    """Decompress packed masks.

    The decoder stops one byte past the size that `shape` gives, even if the stream holds more.

    Args:
        subject: what errors call the stream.
        data: what `encode_mask` returned.
        shape: [T, H, NQ, W], already checked.

    Returns:
        Read-only int32 of `shape`.

    Raises:
        PlanError: the stream is damaged or holds more or fewer bytes.
    """
    bins, heads, query_blocks, words = shape
    size = 4 * bins * heads * query_blocks * words
    expected = f"an LZMA2 stream of {size} bytes, the masks of shape [T, H, NQ, W] = {list(shape)}"
    decoder = lzma.LZMADecompressor(format=lzma.FORMAT_RAW, filters=_FILTERS)
    try:
        content = decoder.decompress(data, max_length=size + 1)
    except (lzma.LZMAError, EOFError) as error:
        raise PlanError(subject, expected=expected, actual=f"a damaged one ({error})") from None
    if len(content) > size:
        raise PlanError(subject, expected=expected, actual="more")
    if not decoder.eof:
        raise PlanError(subject, expected=expected, actual=f"its end after {len(content)} bytes")
    if len(content) < size:
        raise PlanError(subject, expected=expected, actual=f"{len(content)} bytes")
    if decoder.unused_data:
        raise PlanError(
            subject, expected=expected, actual=f"{len(decoder.unused_data)} bytes after its end"
        )
    stored = np.frombuffer(content, dtype="<i4").reshape(heads, query_blocks, bins, words)
    rows = np.ascontiguousarray(stored.transpose(2, 0, 1, 3)).astype(np.int32, copy=False)
    rows.setflags(write=False)
    return rows
