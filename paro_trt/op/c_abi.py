"""How torch's tensors become calls of the C ABI (plugins/include/paro/paro_c.h)."""

from __future__ import annotations

import ctypes
import struct

import torch
from torch import Tensor

from ..errors import ArgumentError
from ..library_files import ABI_VERSION as ABI_VERSION
from .c_structs import DTYPE_CODES
from .c_structs import CAttention as CAttention
from .c_structs import CLaunch as CLaunch
from .c_structs import Status as Status
from .spec import AttentionConfig, AttentionInputs

WORKSPACE_ALIGNMENT = 256

DTYPES: dict[torch.dtype, int] = {getattr(torch, name): code for name, code in DTYPE_CODES.items()}


def attention_call(
    inputs: AttentionInputs, config: AttentionConfig, output: Tensor | None = None
) -> CAttention:
    """A call on the addresses of contiguous tensors, which must outlive it.

    Without an output it can be asked about, not run.

    Raises:
        ArgumentError: query has a dtype that the ABI does not know.
    """
    dtype = inputs.query.dtype
    if dtype not in DTYPES:
        names = ", ".join(str(known).removeprefix("torch.") for known in DTYPES)
        raise ArgumentError("query", expected=names, actual=str(dtype))
    batch, tokens, heads, head_dim = inputs.query.shape
    sizes = CAttention(
        struct_size=ctypes.sizeof(CAttention),
        batch=batch,
        tokens=tokens,
        heads=heads,
        kv_heads=inputs.key.shape[2],
        head_dim=head_dim,
        orders=inputs.token_order.shape[0],
        bins=inputs.block_mask.shape[0],
        dtype=DTYPES[dtype],
        block_q=config.block_q,
        block_k=config.block_k,
        qk_bits=config.qk_bits,
        pv_bits=config.pv_bits,
        pool_dropped=int(config.pool_dropped),
        fine_summaries=int(config.fine_summaries),
        mean_correction=int(config.mean_correction),
        routing=int(config.routing),
        smoothing=int(config.smoothing),
        scale=config.scale,
    )
    return with_addresses(sizes, inputs, output)


def with_addresses(
    call: CAttention, inputs: AttentionInputs, output: Tensor | None = None
) -> CAttention:
    """A copy of a call, on the addresses of contiguous tensors of the same sizes."""
    copy = CAttention.from_buffer_copy(call)
    addresses = [0 if tensor is None else tensor.data_ptr() for tensor in inputs]
    addresses.append(0 if output is None else output.data_ptr())
    _ADDRESSES.pack_into(copy, CAttention.query.offset, *addresses)
    return copy


_ADDRESSES = struct.Struct(f"{len(AttentionInputs._fields) + 1}P")
"""Of the inputs and the output, the last fields of the structure."""


def launch_on(
    device: torch.device | None = None, threads: int = 0, sm: int = 0, max_workspace: int = 0
) -> CLaunch:
    """Where and how to run; on a CUDA device in torch's current stream. Zeros mean defaults.

    Args:
        device: of the tensors; None for the CPU.
        threads: CPU and emulator: how many.
        sm: CUDA kernels: the GPU to answer for, 10 * major + minor.
        max_workspace: CUDA kernels: take heads in groups that need no more bytes.
    """
    on_gpu = device is not None and device.type == "cuda"
    return CLaunch(
        struct_size=ctypes.sizeof(CLaunch),
        stream=torch.cuda.current_stream(device).cuda_stream if on_gpu else None,
        threads=threads,
        sm=sm,
        max_workspace=max_workspace,
    )
