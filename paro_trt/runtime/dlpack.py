"""Tensors of any library by address, never copied: NumPy arrays directly, others by cuda.core."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..engine.cuda import core
from ..errors import ArgumentError

_NO_STREAM = {1: -1, 3: None}
"""kDLCPU and kDLCUDAHost, whose libraries refuse a stream: what cuda.core takes for none."""

_GPU_DEVICES = (2, 13)
"""kDLCUDA, kDLCUDAManaged."""


@dataclass(frozen=True)
class TensorView:
    """A tensor's memory.

    Args:
        address: of its first element.
        shape: its sizes.
        dtype: NumPy's name of the element type, or "bfloat16".
        itemsize: bytes of an element.
        gpu: index of the GPU it is on; None for host memory.
        contiguous: whether elements lie one after the other, last axis fastest.
        owner: keeps the memory alive.
    """

    address: int
    shape: tuple[int, ...]
    dtype: str
    itemsize: int
    gpu: int | None
    contiguous: bool
    owner: Any

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.itemsize * math.prod(self.shape)

    def __str__(self) -> str:
        place = "host" if self.gpu is None else f"GPU {self.gpu}"
        order = "" if self.contiguous else ", not contiguous"
        return f"{self.dtype} {list(self.shape)} on {place}{order}"


def view_of(name: str, value: Any, stream: int) -> TensorView:
    """A tensor's memory; `name` is for messages.

    Args:
        name: of the input or output.
        value: a NumPy array, or a tensor of any library that speaks DLPack.
        stream: address of the CUDA stream that will use it; a tensor's library orders its
            own pending work before it.

    Raises:
        ArgumentError: no tensor, or one that DLPack cannot describe here.
        BackendUnavailableError: cuda.core is not installed, which reads all but NumPy's.
    """
    # cuda.core reads a NumPy array by DLPack, which refuses bfloat16, or asks the driver about it.
    if isinstance(value, np.ndarray):
        return TensorView(
            value.ctypes.data, value.shape, str(value.dtype), value.itemsize, None,
            value.flags.c_contiguous, value,
        )  # fmt: skip
    if not hasattr(value, "__dlpack__") or not hasattr(value, "__dlpack_device__"):
        raise ArgumentError(
            name,
            expected="a NumPy array or a tensor that speaks DLPack",
            actual=type(value).__name__,
        )
    # cuda.core does not tell pinned host memory from a GPU's.
    device = int(value.__dlpack_device__()[0])
    if device not in (*_NO_STREAM, *_GPU_DEVICES):
        raise ArgumentError(
            name, expected="a tensor on the CPU or an NVIDIA GPU", actual=f"DLPack device {device}"
        )
    on_gpu, strided = device in _GPU_DEVICES, core().utils.StridedMemoryView
    # cuda.core reads tensors of some torch releases by their layout in memory, without DLPack and
    # so without its refusals and its order of streams. This shows it DLPack and nothing else.
    only_dlpack = SimpleNamespace(
        __dlpack__=value.__dlpack__, __dlpack_device__=value.__dlpack_device__
    )
    try:
        view = strided(only_dlpack, stream_ptr=stream if on_gpu else _NO_STREAM[device])
        dtype = view.dtype
    except Exception as error:  # each library has its own
        raise ArgumentError(
            name,
            expected="a tensor that DLPack can pass on",
            actual=" ".join(str(error).split())[:160],
            remedy="pass tensor.detach()" if "grad" in str(error) else "",
        ) from error
    return TensorView(
        view.ptr, view.shape, str(dtype), dtype.itemsize, view.device_id if on_gpu else None,
        view.strides is None or _is_contiguous(view.shape, view.strides), view,
    )  # fmt: skip


def _is_contiguous(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def empty_like(name: str, like: Any, shape: tuple[int, ...], dtype: str) -> Any:
    """A new tensor of the library and device of `like`.

    Raises:
        ArgumentError: neither NumPy's nor torch's, which only the caller can make.
    """
    if isinstance(like, np.ndarray):
        return np.empty(shape, numpy_dtype(dtype))
    if type(like).__module__.partition(".")[0] == "torch":
        import torch

        return torch.empty(shape, dtype=getattr(torch, dtype), device=like.device)
    raise ArgumentError(
        name,
        expected="a tensor to write into, as inputs are neither NumPy's nor torch's",
        actual="none",
        remedy="pass outputs={name: tensor}",
    )


def numpy_dtype(name: str) -> np.dtype[Any]:
    """NumPy's dtype of a name; ml_dtypes has bfloat16."""
    if name == "bfloat16":
        import ml_dtypes

        bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    return np.dtype(name)
