"""The public call and the torch op. The caller names the implementation; there is no fallback."""

from __future__ import annotations

from enum import Enum

import torch
from torch import Tensor

from ..errors import ArgumentError, BackendUnavailableError
from .native import NativeLibrary, library_path, load_library
from .reference import paro_attention_reference
from .spec import AttentionConfig, AttentionInputs
from .validate import validate


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
        mask_bin, key_length,
    )  # fmt: skip
    config = AttentionConfig(block_q, block_k, qk_bits, pv_bits, bool(pool_dropped), scale)
    implementation = parse_implementation(impl)
    validate(inputs, config, check_values=check_values)
    if implementation is Implementation.REFERENCE:
        check_devices(inputs, implementation)
        return paro_attention_reference(inputs, config)
    library = _library(implementation)
    check_devices(inputs, implementation)
    return library.forward(inputs, config)


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
    for name, tensor in inputs._asdict().items():
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
        if on_gpu and not tensor.is_contiguous():
            raise ArgumentError(
                name,
                expected="a contiguous tensor",
                actual=f"strides {tuple(tensor.stride())} for shape {tuple(tensor.shape)}",
                remedy="call .contiguous() on it",
            )


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

    It does not check the values of the plan's tensors: those of a loaded plan are already checked.
    """
    return paro_attention(
        query, key, value, token_order, head_order, block_mask, tile_order, channel_affine,
        mask_bin, key_length, scale=scale, block_q=block_q, block_k=block_k, qk_bits=qk_bits,
        pv_bits=pv_bits, pool_dropped=pool_dropped, impl=impl, check_values=False,
    )  # fmt: skip


@attention_op.register_fake
def _attention_shape(query: Tensor, *_: object) -> Tensor:
    return torch.empty_like(query)
