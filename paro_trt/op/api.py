"""The public call and the torch op. The implementation is asked for by name; none stands in."""

from __future__ import annotations

from enum import Enum

import torch
from torch import Tensor

from ..errors import ArgumentError, BackendUnavailableError
from ..native import library_path, load_library
from .reference import paro_attention_reference
from .spec import AttentionConfig, AttentionInputs
from .validate import validate


class Implementation(str, Enum):
    """Who computes the op."""

    REFERENCE = "reference"
    CPU = "cpu"
    CUDA = "cuda"
    EMULATED = "emulated"


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
    Attributes are those of `AttentionConfig`. `check_values=False` skips the checks that read the
    plan's tensors, for callers that validated them once.

    Returns:
        [B,S,H,D], query's dtype, in the original token order.

    Raises:
        ArgumentError: an argument is out of its contract.
        BackendUnavailableError: `impl` is not built or cannot take the arguments.
    """
    inputs = AttentionInputs(
        query, key, value, token_order, head_order, block_mask, tile_order, channel_affine,
        mask_bin, key_length,
    )  # fmt: skip
    config = AttentionConfig(block_q, block_k, qk_bits, pv_bits, bool(pool_dropped), scale)
    implementation = parse_implementation(impl)
    validate(inputs, config, check_values=check_values)
    if implementation is Implementation.CUDA:
        raise BackendUnavailableError(
            f"impl={implementation.value!r}",
            expected="an implementation that is built",
            actual="one that this release does not contain",
            remedy=f"use impl={Implementation.CPU.value!r}",
        )
    for name, tensor in zip(AttentionInputs._fields, inputs, strict=True):
        if tensor.device.type != "cpu":
            raise BackendUnavailableError(
                name,
                expected=f"a CPU tensor for impl={implementation.value!r}",
                actual=f"a tensor on {tensor.device}",
                remedy="move the inputs to the CPU",
            )
    if implementation in (Implementation.CPU, Implementation.EMULATED):
        return load_library(library_path(implementation.value)).forward(inputs, config)
    return paro_attention_reference(inputs, config)


def parse_implementation(impl: str | Implementation) -> Implementation:
    """The named implementation, or ArgumentError listing the names."""
    try:
        return Implementation(impl)
    except ValueError:
        names = ", ".join(member.value for member in Implementation)
        raise ArgumentError("impl", expected=f"one of {names}", actual=repr(impl)) from None


@torch.library.custom_op("paro::attention", mutates_args=())
def attention_op(
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
    scale: float,
    block_q: int,
    block_k: int,
    qk_bits: int,
    pv_bits: int,
    pool_dropped: int,
    impl: str,
) -> Tensor:
    """`paro_attention` as a torch op, which torch.export keeps whole.

    The plan's tensors are taken as already checked, as a loaded plan's are.
    """
    return paro_attention(
        query, key, value, token_order, head_order, block_mask, tile_order, channel_affine,
        mask_bin, key_length, scale=scale, block_q=block_q, block_k=block_k, qk_bits=qk_bits,
        pv_bits=pv_bits, pool_dropped=pool_dropped, impl=impl, check_values=False,
    )  # fmt: skip


@attention_op.register_fake
def _attention_shape(query: Tensor, *_: object) -> Tensor:
    return torch.empty_like(query)
