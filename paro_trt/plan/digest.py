"""The hash that stands for a plan's content, wherever it is stored."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from .document import describe
from .identity import canonical_json

if TYPE_CHECKING:
    from .plan import ParoPlan


def content_hash(plan: ParoPlan) -> str:
    """SHA-256, lower-case hex, as FORMAT.md defines it: the document, then every array."""
    digest = hashlib.sha256(canonical_json(describe(plan)))
    digest.update(_bytes(plan.orders, "<i4"))
    for layer in plan.layers:
        digest.update(_bytes(layer.head_order, "<i4"))
        digest.update(_bytes(layer.block_mask, "<i4"))
        digest.update(_bytes(layer.channel_affine, "<f4"))
    return digest.hexdigest()


def _bytes(array: NDArray[Any], dtype: str) -> memoryview:
    return array.astype(dtype, copy=False).data
