"""Every argument check of the op, in one place: types and shapes first, then values.

Refusals of attributes, ranks and shapes have the wording and the order of the native libraries
(plugins/common/describe_call.cpp and check.cpp), so that a call fails alike in all of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ArgumentError
from .mask import unpack_block_mask
from .spec import (
    BIT_WIDTHS,
    BLOCK_SIZES,
    INPUTS,
    MASK_WORD_BITS,
    MAX_HEADS,
    MAX_TOKENS,
    VERSION_2_ATTRIBUTES,
    VERSION_2_INPUTS,
    AffineRow,
    AttentionConfig,
    AttentionInputs,
    InputSpec,
    block_count,
    mask_words,
)

_LARGEST_SIZE = 2**31 - 1
"""Sizes are int32 in the C ABI."""


@dataclass(frozen=True)
class AttentionShape:
    """Sizes of one call, by the symbols of `spec.INPUTS`."""

    batch: int
    tokens: int
    heads: int
    kv_heads: int
    head_dim: int
    orders: int
    bins: int
    query_blocks: int
    key_blocks: int


def validate_config(config: AttentionConfig) -> None:
    """Check the attributes. Raises ArgumentError."""
    for name, value in (("block_q", config.block_q), ("block_k", config.block_k)):
        _require(value in BLOCK_SIZES, name, _one_of(BLOCK_SIZES), repr(value))
    for name, value in (("qk_bits", config.qk_bits), ("pv_bits", config.pv_bits)):
        _require(value in BIT_WIDTHS, name, _one_of(BIT_WIDTHS), repr(value))
    for name in ("pool_dropped", "fine_summaries", "mean_correction", "routing", "smoothing"):
        value = getattr(config, name)
        _require(value in (0, 1), name, "0 or 1", repr(value))
    _require(
        config.pool_dropped or not config.fine_summaries,
        "fine_summaries",
        "0 where pool_dropped is 0",
        repr(config.fine_summaries),
    )
    _require(
        config.qk_bits == 4 or not config.smoothing,
        "smoothing",
        "0 where qk_bits is not 4",
        repr(config.smoothing),
    )
    scale_ok = math.isfinite(config.scale) and config.scale >= 0
    _require(
        scale_ok, "scale", "a finite factor above 0, or 0 for 1/sqrt(head_dim)", repr(config.scale)
    )


def validate_shapes(inputs: AttentionInputs, config: AttentionConfig) -> AttentionShape:
    """Check types, ranks, devices and shapes of all inputs. Raises ArgumentError."""
    tensors = _named_tensors(inputs, config)
    for spec, tensor in tensors:
        _check_type(spec, tensor)
    query, key = inputs.query, inputs.key
    batch, tokens, heads, head_dim = query.shape
    kv_heads = key.shape[2]
    _require_range("tokens", tokens, MAX_TOKENS)
    key_blocks = block_count(tokens, config.block_k)
    sizes = {
        "B": batch,
        "S": tokens,
        "H": heads,
        "Hk": kv_heads,
        "D": head_dim,
        "O": inputs.token_order.shape[0],
        "T": inputs.block_mask.shape[0],
        "NQ": block_count(tokens, config.block_q),
        "W": mask_words(key_blocks),
        "4": len(AffineRow),
    }
    sizes["H*NQ"] = heads * sizes["NQ"]
    for spec, tensor in tensors:
        expected = [sizes[symbol] for symbol in spec.shape]
        _require(
            list(tensor.shape) == expected,
            spec.name,
            f"shape {expected} with a query of {_shape(query)}",
            _shape(tensor),
        )
    _require_range("batch", batch, _LARGEST_SIZE)
    _require_range("heads", heads, MAX_HEADS)
    _require_range("kv_heads", kv_heads, heads)
    _require_range("orders", sizes["O"], _LARGEST_SIZE)
    _require_range("bins", sizes["T"], _LARGEST_SIZE)
    _require(heads % kv_heads == 0, "kv_heads", f"a divisor of {heads} heads", f"{kv_heads}")
    _require_range("head_dim", head_dim, _LARGEST_SIZE)
    if config.smoothing:
        power = head_dim & (head_dim - 1) == 0
        _require(power, "head_dim", "a power of two where smoothing is 1", f"{head_dim}")
    return AttentionShape(
        batch, tokens, heads, kv_heads, head_dim, sizes["O"], sizes["T"], sizes["NQ"], key_blocks
    )


def validate_values(inputs: AttentionInputs, shape: AttentionShape) -> None:
    """Check the contents of the plan's tensors and of key_length. Raises ArgumentError.

    mask_bin is not checked: the op clamps it. Query, key and value may hold anything.
    """
    _check_permutations("token_order", inputs.token_order, shape.tokens)
    _check_permutations("tile_order", inputs.tile_order, shape.heads * shape.query_blocks)
    _check_range("head_order", inputs.head_order, 0, shape.orders - 1)
    _check_range("key_length", inputs.key_length, 0, shape.tokens)
    group = inputs.head_order.view(shape.kv_heads, -1)
    _require(
        bool((group == group[:, :1]).all()),
        "head_order",
        "one order for all query heads that share a key/value head",
        f"{inputs.head_order.tolist()} with {shape.kv_heads} key/value heads",
    )
    _check_padding_bits("block_mask", inputs.block_mask, shape.key_blocks)
    if inputs.fine_mask is not None:
        _check_padding_bits("fine_mask", inputs.fine_mask, shape.key_blocks)
    if inputs.corrected_heads is not None:
        _check_range("corrected_heads", inputs.corrected_heads, 0, 1)
    if inputs.dynamic_blocks is not None:
        _check_range("dynamic_blocks", inputs.dynamic_blocks, 0, shape.key_blocks)
    affine = inputs.channel_affine
    finite = bool(torch.isfinite(affine).all())
    _require(finite, "channel_affine", "finite values", "NaN or infinity")
    for row, name in (
        (AffineRow.EQUALIZER, "equalizer e"),
        (AffineRow.VALUE_SCALE, "value scale c"),
    ):
        lowest = float(affine[row].min())
        _require(lowest > 0, "channel_affine", f"{name} above 0", f"{lowest}")


def validate(
    inputs: AttentionInputs, config: AttentionConfig, *, check_values: bool = True
) -> AttentionShape:
    """All checks; `check_values=False` leaves out those that read the tensors' contents."""
    validate_config(config)
    shape = validate_shapes(inputs, config)
    if check_values:
        validate_values(inputs, shape)
    return shape


_USED_BY = dict(zip((spec.name for spec in VERSION_2_INPUTS), VERSION_2_ATTRIBUTES, strict=True))
"""The attribute that says whether an input of version 2 is used."""


def _named_tensors(
    inputs: AttentionInputs, config: AttentionConfig
) -> list[tuple[InputSpec, Tensor]]:
    """The inputs that the call has. Those of version 2 are there exactly if they are used."""
    required = [(spec, getattr(inputs, spec.name)) for spec in INPUTS]
    for spec in VERSION_2_INPUTS:
        tensor, attribute = getattr(inputs, spec.name), _USED_BY[spec.name].name
        used = bool(getattr(config, attribute))
        _require(
            used == (tensor is not None),
            spec.name,
            f"a tensor if and only if {attribute} is 1",
            f"{'none' if tensor is None else 'a tensor'} with {attribute}={int(used)}",
        )
        if tensor is not None:
            required.append((spec, tensor))
    return required


def _check_type(spec: InputSpec, tensor: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise ArgumentError(spec.name, expected="a torch.Tensor", actual=type(tensor).__name__)
    dtype = str(tensor.dtype).removeprefix("torch.")
    _require(dtype in spec.dtypes, spec.name, " or ".join(spec.dtypes), dtype)
    _require(
        tensor.ndim == len(spec.shape) and all(size <= _LARGEST_SIZE for size in tensor.shape),
        spec.name,
        f"{len(spec.shape)} dimensions of sizes in 0..2^31-1",
        f"shape {_shape(tensor)}",
    )


def _check_permutations(name: str, rows: Tensor, length: int) -> None:
    expected = torch.arange(length, dtype=rows.dtype, device=rows.device)
    wrong = (rows.sort(dim=-1).values != expected).any(dim=-1).nonzero()
    if len(wrong):
        raise ArgumentError(
            name,
            expected=f"each row a permutation of 0..{length - 1}",
            actual=f"row {int(wrong[0])} with repeated or missing entries",
        )


def _check_range(name: str, values: Tensor, lowest: int, highest: int) -> None:
    outside = values[(values < lowest) | (values > highest)]
    if len(outside):
        raise ArgumentError(
            name, expected=f"values in {lowest}..{highest}", actual=f"{int(outside[0])}"
        )


def _check_padding_bits(name: str, mask: Tensor, key_blocks: int) -> None:
    words = mask.shape[-1]
    padding = unpack_block_mask(mask.cpu().numpy(), words * MASK_WORD_BITS)[..., key_blocks:]
    if padding.any():
        raise ArgumentError(
            name,
            expected=f"no bit set at or past key block {key_blocks}",
            actual=f"{int(padding.sum())} such bits",
        )


def _require(condition: bool, name: str, expected: str, actual: str) -> None:
    if not condition:
        raise ArgumentError(name, expected=expected, actual=actual)


def _require_range(name: str, value: int, highest: int) -> None:
    _require(1 <= value <= highest, name, f"a value in 1..{highest}", f"{value}")


def _one_of(values: tuple[int, ...]) -> str:
    return " or ".join((", ".join(map(str, values[:-1])), str(values[-1])))


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))
