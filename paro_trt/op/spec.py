"""The contract of the PAROAttention op: names, types, shapes and attributes, in one place.

Everything that describes the op elsewhere (validation, ONNX node, function body, plugin fields,
C structs) is tested against the tables below.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

DOMAIN = "paro"
OP_TYPE = "PAROAttention"
OP_VERSION = 1
PLUGIN_VERSION = "1"
PLUGIN_NAMESPACE = ""

BLOCK_SIZES = (64, 128)
BIT_WIDTHS = (16, 8, 4)
MASK_WORD_BITS = 32

MAX_TOKENS = 1 << 24
"""Longest sequence accepted: token indices stay exact in every integer and float type used."""

MAX_HEADS = 1 << 16
"""Most query heads accepted, as in the native libraries."""


@dataclass(frozen=True)
class InputSpec:
    """One input of the op: its name, allowed dtypes and symbolic shape.

    Symbols: B batch, S tokens, H query heads, Hk key/value heads (divides H), D head_dim,
    O orders, T schedule bins, NQ query blocks, NK key blocks, W = ceil(NK / 32).
    """

    name: str
    dtypes: tuple[str, ...]
    shape: tuple[str, ...]


_FLOATS = ("float16", "bfloat16", "float32")

INPUTS: tuple[InputSpec, ...] = (
    InputSpec("query", _FLOATS, ("B", "S", "H", "D")),
    InputSpec("key", _FLOATS, ("B", "S", "Hk", "D")),
    InputSpec("value", _FLOATS, ("B", "S", "Hk", "D")),
    InputSpec("token_order", ("int32",), ("O", "S")),
    InputSpec("head_order", ("int32",), ("H",)),
    InputSpec("block_mask", ("int32",), ("T", "H", "NQ", "W")),
    InputSpec("tile_order", ("int32",), ("T", "H*NQ")),
    InputSpec("channel_affine", ("float32",), ("4", "Hk", "D")),
    InputSpec("mask_bin", ("int32",), ("B",)),
    InputSpec("key_length", ("int32",), ("B",)),
)


class AffineRow(IntEnum):
    """Rows of `channel_affine`; `paro_affine_row` of the C ABI."""

    KEY_MEAN = 0
    EQUALIZER = 1
    VALUE_MEAN = 2
    VALUE_SCALE = 3


@dataclass(frozen=True)
class AttributeSpec:
    """One attribute of the ONNX node: its name, ONNX type and default (None: required)."""

    name: str
    kind: type
    default: float | int | str | None


ATTRIBUTES: tuple[AttributeSpec, ...] = (
    AttributeSpec("scale", float, 0.0),
    AttributeSpec("block_q", int, None),
    AttributeSpec("block_k", int, None),
    AttributeSpec("qk_bits", int, None),
    AttributeSpec("pv_bits", int, None),
    AttributeSpec("pool_dropped", int, 0),
    AttributeSpec("plugin_version", str, PLUGIN_VERSION),
    AttributeSpec("plugin_namespace", str, PLUGIN_NAMESPACE),
)


class AttentionInputs(NamedTuple):
    """The tensors of one call, in the order of `INPUTS`."""

    query: Tensor
    key: Tensor
    value: Tensor
    token_order: Tensor
    head_order: Tensor
    block_mask: Tensor
    tile_order: Tensor
    channel_affine: Tensor
    mask_bin: Tensor
    key_length: Tensor


@dataclass(frozen=True)
class AttentionConfig:
    """The op's numeric attributes.

    Args:
        block_q: tokens in a query block, 64 or 128.
        block_k: tokens in a key block, 64 or 128.
        qk_bits: 16 (the input's own float type), 8 or 4 (integers) for query x key.
        pv_bits: the same for probabilities x value.
        pool_dropped: key blocks off the mask join the softmax as one summary token each,
            instead of vanishing.
        scale: factor on the logits; 0 means 1/sqrt(head_dim).
    """

    block_q: int = 128
    block_k: int = 64
    qk_bits: int = 16
    pv_bits: int = 16
    pool_dropped: bool = False
    scale: float = 0.0

    def softmax_scale(self, head_dim: int) -> float:
        """Factor on the logits for a head of `head_dim` channels."""
        return self.scale if self.scale != 0.0 else 1.0 / math.sqrt(head_dim)


def block_count(tokens: int, block: int) -> int:
    """Blocks of `block` tokens that cover `tokens` tokens; the last may be partial."""
    return -(-tokens // block)


def mask_words(key_blocks: int) -> int:
    """W: the words of one mask row. A word is an int32 with the bits of 32 key blocks."""
    return -(-key_blocks // MASK_WORD_BITS)
