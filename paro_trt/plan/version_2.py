"""What version 2 adds to a layer: fine blocks, corrected heads, blocks chosen at run time, smoothed
4-bit query x key.

Each is None where the layer does not use it, and None is the only way to say so: a tensor that
changes nothing becomes None. A rotation of zeros is no such tensor: the layer is smoothed, and none
of its heads is rotated.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import PlanError
from . import checks


def fine_plane(value: object, exact: NDArray[np.int32]) -> NDArray[np.int32] | None:
    """The fine bits of blocks that are not exact.

    Args:
        value: None, or int32 of the shape of `exact`. Bits of exact blocks are allowed, have no
            meaning and are cleared.
        exact: int32 [T, H, NQ, W], the layer's block mask.

    Raises:
        PlanError: it is anything else.
    """
    if value is None:
        return None
    fine = checks.array("fine_mask", value, np.int32, 4)
    checks.shape("fine_mask", fine, exact.shape, "[T, H, NQ, W], as block_mask")
    return _or_none(fine & ~exact)


def corrected_heads(value: object, heads: int) -> NDArray[np.int32] | None:
    """int32 [H] of 0 and 1, or None.

    Raises:
        PlanError: it is anything else.
    """
    if value is None:
        return None
    flags = checks.array("corrected_heads", value, np.int32, 1)
    checks.shape("corrected_heads", flags, (heads,), "[H]")
    _within("corrected_heads", flags, 1, "0 or 1")
    return _or_none(flags)


def dynamic_blocks(value: object, bins: int, heads: int) -> NDArray[np.int32] | None:
    """int32 [T, H] of at least 0, or None.

    Raises:
        PlanError: it is anything else.
    """
    if value is None:
        return None
    counts = checks.array("dynamic_blocks", value, np.int32, 2)
    checks.shape("dynamic_blocks", counts, (bins, heads), "[T, H]")
    largest = int(np.iinfo(np.int32).max)
    _within("dynamic_blocks", counts, largest, "0 or more")
    return _or_none(counts)


def rotation(value: object, kv_heads: int, head_dim: int, qk_bits: int) -> NDArray[np.int32] | None:
    """int32 [Hk, D], or None: a row of -1 and 1, the signs of a rotated head, or of zeros.

    Raises:
        PlanError: it is anything else, query x key does not have 4 bits, or D is no power of two.
    """
    if value is None:
        return None
    signs = checks.array("rotation", value, np.int32, 2)
    checks.shape("rotation", signs, (kv_heads, head_dim), "[Hk, D]")
    if qk_bits != 4:
        raise PlanError("rotation", expected="none where qk_bits is not 4", actual=f"{qk_bits}")
    if head_dim & (head_dim - 1):
        raise PlanError(
            "rotation", expected="a head_dim that is a power of two", actual=f"{head_dim}"
        )
    rotated = signs[:, :1] != 0
    wrong = np.argwhere(np.where(rotated, np.abs(signs) != 1, signs != 0))
    if len(wrong):
        head, channel = (int(i) for i in wrong[0])
        raise PlanError(
            f"rotation[{head}, {channel}]",
            expected="-1 or 1, as channel 0 is not 0" if rotated[head] else "0, as channel 0 is",
            actual=str(signs[head, channel]),
        )
    return signs


def check_dynamic_blocks(counts: NDArray[np.int32], key_blocks: int) -> None:
    """Refuse a query block that chooses more blocks than there are."""
    _within("dynamic_blocks", counts, key_blocks, f"0..{key_blocks}, the key blocks")


def _within(subject: str, values: NDArray[np.int32], highest: int, expected: str) -> None:
    wrong = np.argwhere((values < 0) | (values > highest))
    if len(wrong):
        index = tuple(int(i) for i in wrong[0])
        place = ", ".join(map(str, index))
        raise PlanError(f"{subject}[{place}]", expected=expected, actual=str(values[index]))


def _or_none(array: NDArray[Any]) -> NDArray[Any] | None:
    if not array.any():
        return None
    array.setflags(write=False)
    return array
