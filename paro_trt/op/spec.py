"""The contract of the PAROAttention op: names, types, shapes and attributes, in one place.

Everything that describes the op elsewhere (validation, ONNX node, function body, plugin fields,
C structs) is tested against the tables below.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

DOMAIN = "paro"
OP_TYPE = "PAROAttention"
OP_VERSION = 1
OP_VERSION_2 = 2
"""Version 2 adds summaries at two resolutions, corrected block means, routing and smoothed 4-bit
products. A call that uses none of them is one of version 1."""

PLUGIN_VERSION = "1"
PLUGIN_NAMESPACE = ""

BLOCK_SIZES = (64, 128)
BIT_WIDTHS = (16, 8, 4)
MASK_WORD_BITS = 32

FINE_SUMMARIES = 4
"""Summary tokens of a fine key block: one for each run of block_k / 4 consecutive tokens."""

COARSE_KEYS = 1
"""Summary tokens of a coarse key block."""

CORRECTION_ROWS = 128
"""Consecutive query rows that share one corrected mean, whatever block_q is."""

ROUTING_RUN = 16
"""Consecutive tokens whose mean is one token of the estimate that chooses blocks at run time."""

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

VERSION_2_INPUTS: tuple[InputSpec, ...] = (
    InputSpec("fine_mask", ("int32",), ("T", "H", "NQ", "W")),
    InputSpec("corrected_heads", ("int32",), ("H",)),
    InputSpec("dynamic_blocks", ("int32",), ("T", "H")),
    InputSpec("rotation", ("int32",), ("Hk", "D")),
)
"""What version 2 has behind the inputs of version 1."""


def op_inputs(version: int) -> tuple[InputSpec, ...]:
    """The inputs of a node of this version of the op."""
    return INPUTS if version == OP_VERSION else INPUTS + VERSION_2_INPUTS


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

VERSION_2_ATTRIBUTES: tuple[AttributeSpec, ...] = (
    AttributeSpec("fine_summaries", int, 0),
    AttributeSpec("mean_correction", int, 0),
    AttributeSpec("routing", int, 0),
    AttributeSpec("smoothing", int, 0),
)
"""What version 2 has in addition: which of its four inputs are used."""


def op_attributes(version: int) -> tuple[AttributeSpec, ...]:
    """The attributes of a node of this version of the op."""
    if version == OP_VERSION:
        return ATTRIBUTES
    own = AttributeSpec("plugin_version", str, str(version))
    shared = (own if entry.name == own.name else entry for entry in ATTRIBUTES)
    return (*shared, *VERSION_2_ATTRIBUTES)


class AttentionInputs(NamedTuple):
    """The tensors of one call, in the order of `op_inputs`; None: a feature that is not used."""

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
    fine_mask: Tensor | None = None
    corrected_heads: Tensor | None = None
    dynamic_blocks: Tensor | None = None
    rotation: Tensor | None = None

    def named_tensors(self) -> dict[str, Tensor]:
        """The tensors that the call has, by name."""
        return {name: x for name, x in zip(self._fields, self, strict=True) if x is not None}

    def converted(self, change: Callable[[Tensor], Tensor]) -> AttentionInputs:
        """The call on `change` of each tensor."""
        return AttentionInputs(**{name: change(x) for name, x in self.named_tensors().items()})


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
        fine_summaries: dropped blocks whose bit is set in `fine_mask` join with
            `FINE_SUMMARIES` summary tokens; needs `pool_dropped`.
        mean_correction: rows of `corrected_heads` get the error of their mean query back.
        routing: `dynamic_blocks` more key blocks a query block are chosen at run time.
        smoothing: 4-bit query x key of what is left of both after the means of their blocks,
            in channels rotated by `rotation`; needs `qk_bits` 4.
    """

    block_q: int = 128
    block_k: int = 64
    qk_bits: int = 16
    pv_bits: int = 16
    pool_dropped: bool = False
    scale: float = 0.0
    fine_summaries: bool = False
    mean_correction: bool = False
    routing: bool = False
    smoothing: bool = False

    @property
    def version(self) -> int:
        """The first version of the op that has these attributes."""
        used = (self.fine_summaries, self.mean_correction, self.routing, self.smoothing)
        return OP_VERSION_2 if any(used) else OP_VERSION

    @property
    def summary_key_bits(self) -> int:
        """Bits of summary keys, and of all that a smoothed query meets at more than 4 bits."""
        return 8 if self.smoothing else self.qk_bits

    def keywords(self) -> dict[str, Any]:
        """The keyword arguments of `paro_attention` that say the same."""
        names = ("block_q", "block_k", "qk_bits", "pv_bits", "pool_dropped", "scale")
        return {name: getattr(self, name) for name in names}

    def softmax_scale(self, head_dim: int) -> float:
        """Factor on the logits for a head of `head_dim` channels."""
        return self.scale if self.scale != 0.0 else 1.0 / math.sqrt(head_dim)


def block_count(tokens: int, block: int) -> int:
    """Blocks of `block` tokens that cover `tokens` tokens; the last may be partial."""
    return -(-tokens // block)


def mask_words(key_blocks: int) -> int:
    """W: the words of one mask row. A word is an int32 with the bits of 32 key blocks."""
    return -(-key_blocks // MASK_WORD_BITS)
