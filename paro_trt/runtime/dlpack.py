"""Tensors of any library by address: NumPy arrays directly, all others by DLPack, never copied.

Struct layouts: DLPack 0.8's dlpack.h, which every library still exports by default.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ArgumentError

_CODES = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 6: "bool"}
_HOST_DEVICES = (1, 3)
"""kDLCPU, kDLCUDAHost."""

_GPU_DEVICES = (2, 13)
"""kDLCUDA, kDLCUDAManaged."""

_CAPSULE_NAME = b"dltensor"


class _DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


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
    """
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
    device = int(value.__dlpack_device__()[0])
    if device not in (*_HOST_DEVICES, *_GPU_DEVICES):
        raise ArgumentError(
            name, expected="a tensor on the CPU or an NVIDIA GPU", actual=f"DLPack device {device}"
        )
    try:
        on_gpu = device in _GPU_DEVICES
        capsule = value.__dlpack__(stream=stream) if on_gpu else value.__dlpack__()
    except Exception as error:  # each library has its own
        raise ArgumentError(
            name,
            expected="a tensor that DLPack can pass on",
            actual=" ".join(str(error).split())[:160],
            remedy="pass tensor.detach()" if "grad" in str(error) else "",
        ) from error
    return _read(capsule, value)


def _read(capsule: Any, owner: Any) -> TensorView:
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    tensor = _DLTensor.from_address(get_pointer(capsule, _CAPSULE_NAME))
    shape = tuple(tensor.shape[axis] for axis in range(tensor.ndim))
    strides = tuple(tensor.strides[axis] for axis in range(tensor.ndim)) if tensor.strides else None
    kind = _CODES.get(tensor.code, f"code{tensor.code}_")
    return TensorView(
        address=(tensor.data or 0) + tensor.byte_offset,
        shape=shape,
        dtype="bool" if kind == "bool" else f"{kind}{tensor.bits}",
        itemsize=tensor.bits * tensor.lanes // 8,
        gpu=tensor.device_id if tensor.device_type in _GPU_DEVICES else None,
        contiguous=strides is None or _is_contiguous(shape, strides),
        # An unconsumed capsule frees what it describes when it goes.
        owner=(owner, capsule),
    )


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
