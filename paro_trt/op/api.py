"""The public call and the torch op. The caller names the implementation; there is no fallback."""

from __future__ import annotations

import os
from collections.abc import Hashable
from enum import Enum
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import ArgumentError, BackendUnavailableError
from .native import (
    LIBRARY_DIRECTORY_VARIABLE,
    NativeLibrary,
    RepeatedCall,
    library_path,
    load_library,
)
from .reference import paro_attention_reference
from .spec import AttentionConfig, AttentionInputs
from .validate import AttentionShape, validate, validate_values


class Implementation(str, Enum):
    """Which implementation computes the op."""

    REFERENCE = "reference"
    CPU = "cpu"
    CUDA = "cuda"
    EMULATED = "emulated"


_LIBRARIES = {
    Implementation.CPU: "cpu",
    Implementation.CUDA: "attention",
    Implementation.EMULATED: "emulated",
}
"""The name in libparo_<name>.so of each native implementation."""


def paro_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    token_order: Tensor,
    head_order: Tensor,
    block_mask: Tensor,
    tile_order: Tensor,
    channel_affine: Tensor,
    mask_bin: Tensor,
    key_length: Tensor,
    fine_mask: Tensor | None = None,
    corrected_heads: Tensor | None = None,
    dynamic_blocks: Tensor | None = None,
    rotation: Tensor | None = None,
    *,
    block_q: int,
    block_k: int,
    qk_bits: int,
    pv_bits: int,
    scale: float = 0.0,
    pool_dropped: bool | int = False,
    impl: str | Implementation = Implementation.REFERENCE,
    check_values: bool = True,
) -> Tensor:
    """Reordered, block-sparse, quantized attention (arXiv 2506.16054).

    Tensors, with S tokens, H query heads, Hk key/value heads, D channels, NQ = ceil(S/block_q),
    NK = ceil(S/block_k), W = ceil(NK/32):
        query [B,S,H,D], key, value [B,S,Hk,D]: float16, bfloat16 or float32, after RoPE and norm.
        token_order int32 [O,S], head_order int32 [H]: position j of head h's sequence holds token
            token_order[head_order[h], j].
        block_mask int32 [T,H,NQ,W]: bit k%32 of word k//32 set: key block k is attended.
        tile_order int32 [T,H*NQ]: schedule of (head, query block) pairs; no effect on the result.
        channel_affine float32 [4,Hk,D]: key mean, equalizer, value mean, value scale.
        mask_bin int32 [B]: row of T for each sample, clamped; key_length int32 [B]: tokens of the
            reordered sequence that exist.
        Of version 2, each optional:
        fine_mask int32 [T,H,NQ,W], as block_mask: dropped blocks with four summary tokens; needs
            pool_dropped.
        corrected_heads int32 [H]: 1: the head's rows get what their mean query lacks.
        dynamic_blocks int32 [T,H]: how many more blocks each query block chooses at run time.
        rotation int32 [Hk,D]: smoothed 4-bit query x key in channels rotated with these signs; a
            head with 0 in channel 0 is not rotated; needs qk_bits 4.
    Attributes are those of `AttentionConfig`. `check_values=False` skips the checks that read the
    plan's tensors, for callers that validated them once; on a GPU those checks wait for it.

    impl="reference" takes tensors on any one device. impl="cuda" takes contiguous tensors on one
    GPU and queues its work in torch's current stream; the others take CPU tensors.

    Returns:
        [B,S,H,D], query's dtype, in the original token order.

    Raises:
        ArgumentError: an argument is out of its contract.
        BackendUnavailableError: `impl` is not built or cannot take the arguments.
    """
    inputs = AttentionInputs(
        query, key, value, token_order, head_order, block_mask, tile_order, channel_affine,
        mask_bin, key_length, fine_mask, corrected_heads, dynamic_blocks, rotation,
    )  # fmt: skip
    attributes = (
        block_q, block_k, qk_bits, pv_bits, bool(pool_dropped), scale,
        fine_mask is not None, corrected_heads is not None, dynamic_blocks is not None,
        rotation is not None,
    )  # fmt: skip
    prepared = _prepared(inputs, attributes, impl)
    if check_values:
        validate_values(inputs, prepared.shape)
    if prepared.native is None:
        return paro_attention_reference(inputs, prepared.config)
    if query.is_cuda:
        _require_contiguous(inputs)
    return prepared.native.forward(inputs)


class _Prepared(NamedTuple):
    """What a call needs beyond its tensors; native: None for the reference."""

    config: AttentionConfig
    shape: AttentionShape
    native: RepeatedCall | None


_PREPARED: dict[Hashable, _Prepared] = {}
"""Calls by attributes, types, shapes and devices, whose checks cost more than a launch: a model
repeats a few in every step."""

_MOST_PREPARED = 1024


def _prepared(
    inputs: AttentionInputs, attributes: tuple[Any, ...], impl: str | Implementation
) -> _Prepared:
    """The checked call, which is checked once."""
    directory = os.environ.get(LIBRARY_DIRECTORY_VARIABLE)
    try:
        key = (
            impl,
            directory,
            attributes,
            *[x if x is None else (x.dtype, x.shape, x.device) for x in inputs],
        )
        known = _PREPARED.get(key)
    except (AttributeError, TypeError):
        # An argument that is no tensor, or the symbols of a trace, which have no hash.
        return _prepare(inputs, attributes, impl)
    if known is None:
        known = _prepare(inputs, attributes, impl)
        if len(_PREPARED) >= _MOST_PREPARED:
            _PREPARED.clear()
        _PREPARED[key] = known
    return known


def _prepare(
    inputs: AttentionInputs, attributes: tuple[Any, ...], impl: str | Implementation
) -> _Prepared:
    config = AttentionConfig(*attributes)
    implementation = parse_implementation(impl)
    shape = validate(inputs, config, check_values=False)
    if implementation is Implementation.REFERENCE:
        check_devices(inputs, implementation)
        return _Prepared(config, shape, None)
    library = _library(implementation)
    check_devices(inputs, implementation)
    return _Prepared(config, shape, RepeatedCall(library, inputs, config))


def parse_implementation(impl: str | Implementation) -> Implementation:
    """The named implementation, or ArgumentError listing the names."""
    try:
        return Implementation(impl)
    except ValueError:
        names = ", ".join(member.value for member in Implementation)
        raise ArgumentError("impl", expected=f"one of {names}", actual=repr(impl)) from None


def _library(implementation: Implementation) -> NativeLibrary:
    """The native library of an implementation. It must be built, and its hardware available."""
    subject = f"impl={implementation.value!r}"
    try:
        library = load_library(library_path(_LIBRARIES[implementation]))
    except BackendUnavailableError as error:
        raise BackendUnavailableError(
            subject, expected=error.expected, actual=error.actual, remedy=error.remedy
        ) from error
    if implementation is Implementation.CUDA and not torch.cuda.is_available():
        built = torch.version.cuda
        raise BackendUnavailableError(
            subject,
            expected="a GPU that torch can use",
            actual=f"none in a torch built for CUDA {built}" if built else "a torch without CUDA",
            remedy="paro-trt doctor says what is here; impl='cpu' needs no GPU",
        )
    return library


def check_devices(inputs: AttentionInputs, implementation: Implementation) -> None:
    """Check that all tensors are on the implementation's device. On a GPU, nothing is copied."""
    on_gpu = implementation is Implementation.CUDA
    anywhere = implementation is Implementation.REFERENCE
    kind, wanted = ("cuda", "a CUDA tensor") if on_gpu else ("cpu", "a CPU tensor")
    device = inputs.query.device
    for name, tensor in inputs.named_tensors().items():
        if tensor.device.type != kind and not anywhere:
            raise BackendUnavailableError(
                name,
                expected=f"{wanted} for impl={implementation.value!r}",
                actual=f"a tensor on {tensor.device}",
                remedy=f"move the inputs to the {'GPU' if on_gpu else 'CPU'}",
            )
        if tensor.device != device:
            raise ArgumentError(
                name,
                expected=f"a tensor on {device}, as query",
                actual=f"one on {tensor.device}",
                remedy="move the inputs to one device",
            )
    if on_gpu:
        _require_contiguous(inputs)


def _require_contiguous(inputs: AttentionInputs) -> None:
    if all(tensor.is_contiguous() for tensor in inputs.named_tensors().values()):
        return
    for name, tensor in inputs.named_tensors().items():
        if not tensor.is_contiguous():
            raise ArgumentError(
                name,
                expected="a contiguous tensor",
                actual=f"strides {tuple(tensor.stride())} for shape {tuple(tensor.shape)}",
                remedy="call .contiguous() on it",
            )


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    token_order: Tensor,
    head_order: Tensor,
    block_mask: Tensor,
    tile_order: Tensor,
    channel_affine: Tensor,
    mask_bin: Tensor,
    key_length: Tensor,
    fine_mask: Tensor | None,
    corrected_heads: Tensor | None,
    dynamic_blocks: Tensor | None,
    rotation: Tensor | None,
    scale: float,
    block_q: int,
    block_k: int,
    qk_bits: int,
    pv_bits: int,
    pool_dropped: int,
    impl: str,
) -> Tensor:
    """`paro_attention` as a torch op, which torch.export and torch.compile keep whole.

    It does not check the values of the plan's tensors: those of a loaded plan are already checked.
    """
    return paro_attention(
        query, key, value, token_order, head_order, block_mask, tile_order, channel_affine,
        mask_bin, key_length, fine_mask, corrected_heads, dynamic_blocks, rotation, scale=scale,
        block_q=block_q, block_k=block_k, qk_bits=qk_bits, pv_bits=pv_bits,
        pool_dropped=pool_dropped, impl=impl, check_values=False,
    )  # fmt: skip


def _attention_shape(query: Tensor, *_: object) -> Tensor:
    # Contiguous whatever query's strides are, as the implementations have it.
    return query.new_empty(query.shape)


def _refuse_backward(*_: object) -> None:
    raise BackendUnavailableError(
        "paro::attention",
        expected="a call for inference",
        actual="a backward pass through it",
        remedy="run the model under torch.no_grad(), or remove the plan to train",
    )


# Not torch.library.custom_op: its wrapper alone costs more than the whole call (docs/api.md).
_OPS = torch.library.Library("paro", "FRAGMENT")
_OPS.define(
    "attention" + torch.library.infer_schema(_attention, mutates_args=()),
    tags=(torch.Tag.needs_fixed_stride_order, torch.Tag.pt2_compliant_tag),
)
_OPS.impl("attention", _attention, "CompositeExplicitAutograd")
torch.library.register_fake("paro::attention", _attention_shape, lib=_OPS)
torch.library.register_autograd("paro::attention", _refuse_backward, lib=_OPS)

attention_op = torch.ops.paro.attention.default
"""The torch op `paro::attention`; arguments as of `_attention`."""
