"""Block masks on disk: LZMA2 over the packed words of the exact blocks, and over the bits that say
which of the others are fine. FORMAT.md has the measurements."""

from __future__ import annotations

import lzma
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ..errors import PlanError
from ..op.mask import pack_block_mask, unpack_block_mask
from ..op.spec import MASK_WORD_BITS

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

_BITS_AT_ONCE = 1 << 23
"""Mask bits that are unpacked, a byte each, at a time."""


def encode_mask(words: NDArray[np.int32]) -> bytes:
    """Compress packed masks int32 [T, H, NQ, W]."""
    rows = _stored_rows(words).astype("<i4", copy=False)
    return lzma.compress(rows.tobytes(), format=lzma.FORMAT_RAW, filters=_FILTERS)


def encode_fine_mask(fine: NDArray[np.int32], exact: NDArray[np.int32], key_blocks: int) -> bytes:
    """Compress the bits of the blocks that are not exact; both planes int32 [T, H, NQ, W].

    Whether an exact block is fine has no meaning, and without these bits the rest are runs.
    """
    compressor = lzma.LZMACompressor(format=lzma.FORMAT_RAW, filters=_FILTERS)
    stream = bytearray()
    pending = np.zeros(0, dtype=bool)
    fine_rows = _stored_rows(fine)
    for rows, dropped in _dropped_blocks(exact, key_blocks):
        bits = unpack_block_mask(fine_rows[rows], key_blocks)[dropped]
        pending = np.concatenate([pending, bits])
        whole = len(pending) // 8 * 8
        stream += compressor.compress(np.packbits(pending[:whole], bitorder="little").tobytes())
        pending = pending[whole:]
    stream += compressor.compress(np.packbits(pending, bitorder="little").tobytes())
    return bytes(stream + compressor.flush())


def decode_mask(subject: str, data: bytes, shape: tuple[int, int, int, int]) -> NDArray[np.int32]:
    """Decompress packed masks.

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
    content = _decompressed(
        subject,
        data,
        4 * bins * heads * query_blocks * words,
        f"the masks of shape [T, H, NQ, W] = {list(shape)}",
    )
    return _plane(np.frombuffer(content, dtype="<i4"), shape)


def decode_fine_mask(
    subject: str, data: bytes, exact: NDArray[np.int32], key_blocks: int
) -> NDArray[np.int32]:
    """Decompress the fine bits of the blocks that are not exact.

    Args:
        subject: what errors call the stream.
        data: what `encode_fine_mask` returned.
        exact: int32 [T, H, NQ, W], checked but for bits at or past NK, which do not count.
        key_blocks: NK.

    Returns:
        Read-only int32 of the shape of `exact`.

    Raises:
        PlanError: the stream is damaged, holds more or fewer bytes, or a bit past the last block.
    """
    blocks = _dropped_count(exact, key_blocks)
    what = f"a bit for each of {blocks} blocks that are not exact"
    content = np.frombuffer(_decompressed(subject, data, -(-blocks // 8), what), dtype=np.uint8)
    if blocks % 8 and content[-1] >> blocks % 8:
        raise PlanError(
            subject, expected=f"no bit past the {blocks} blocks", actual="a padding bit set"
        )
    words = np.empty((exact.size // exact.shape[-1], exact.shape[-1]), dtype=np.int32)
    at = 0
    for rows, dropped in _dropped_blocks(exact, key_blocks):
        end = at + int(dropped.sum())
        bits = np.unpackbits(content[at // 8 : -(-end // 8)], bitorder="little")
        fine = np.zeros_like(dropped)
        fine[dropped] = bits[at % 8 : at % 8 + end - at]
        words[rows] = pack_block_mask(fine)
        at = end
    bins, heads, query_blocks, width = exact.shape
    return _plane(words, (bins, heads, query_blocks, width))


def _stored_rows(words: NDArray[np.int32]) -> NDArray[np.int32]:
    """Mask rows [T, H, NQ, W] as a file has them, [H * NQ * T, W]."""
    # Rows of one query block are similar in all bins; stored next to each other they compress best.
    return np.ascontiguousarray(words.transpose(1, 2, 0, 3)).reshape(-1, words.shape[-1])


def _plane(stored: NDArray[np.int32], shape: tuple[int, int, int, int]) -> NDArray[np.int32]:
    """The plane [T, H, NQ, W] of stored rows, read-only."""
    bins, heads, query_blocks, words = shape
    rows = stored.reshape(heads, query_blocks, bins, words).transpose(2, 0, 1, 3)
    plane = np.ascontiguousarray(rows).astype(np.int32, copy=False)
    plane.setflags(write=False)
    return plane


def _dropped_count(exact: NDArray[np.int32], key_blocks: int) -> int:
    """Blocks that are not exact; bits at or past NK do not count."""
    words = exact.view(np.uint32)
    padding = words[..., -1] >> np.uint32((key_blocks - 1) % MASK_WORD_BITS) >> np.uint32(1)
    set_bits = np.bitwise_count(words).sum(dtype=np.int64)
    padding_bits = np.bitwise_count(padding).sum(dtype=np.int64)
    return words[..., 0].size * key_blocks - int(set_bits - padding_bits)


def _dropped_blocks(
    exact: NDArray[np.int32], key_blocks: int
) -> Iterator[tuple[slice, NDArray[np.bool_]]]:
    """Some stored rows at a time, and their blocks that are not exact: bool [rows, NK]."""
    stored = _stored_rows(exact)
    step = max(1, _BITS_AT_ONCE // key_blocks)
    for start in range(0, len(stored), step):
        rows = slice(start, start + step)
        yield rows, ~unpack_block_mask(stored[rows], key_blocks)


def _decompressed(subject: str, data: bytes, size: int, what: str) -> bytes:
    """The content of a stream, exactly `size` bytes.

    The decoder stops one byte past the size, even if the stream holds more.
    """
    expected = f"an LZMA2 stream of {size} bytes, {what}"
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
    return content
