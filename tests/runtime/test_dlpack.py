"""Tensors of NumPy, torch and other libraries by address, read by the real cuda.core."""

from __future__ import annotations

import ctypes
import gc

import ml_dtypes
import numpy as np
import pytest
import torch

from paro_trt.errors import ArgumentError
from paro_trt.runtime.dlpack import empty_like, view_of

pytest.importorskip("cuda.core", reason="reads tensors of every library but NumPy")

STREAM = 4096


class Foreign:
    """A tensor of a library of its own; its device, and the offset in bytes, are what it says."""

    def __init__(self, array, device, offset=0):
        self.array, self.device, self.offset = array, device, offset
        self.streams = []

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, stream=None):
        self.streams.append(stream)
        capsule = self.array.__dlpack__()
        get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
        get_pointer.restype = ctypes.c_void_p
        get_pointer.argtypes = (ctypes.py_object, ctypes.c_char_p)
        address = get_pointer(capsule, b"dltensor")
        (ctypes.c_int32 * 2).from_address(address + 8)[:] = self.device
        ctypes.c_uint64.from_address(address + 40).value = self.offset
        return capsule


DTYPES = [
    (np.float16, torch.float16), (np.float32, torch.float32), (np.int32, torch.int32),
    (np.int64, torch.int64), (np.bool_, torch.bool), (ml_dtypes.bfloat16, torch.bfloat16),
]  # fmt: skip


@pytest.mark.parametrize(("of_numpy", "of_torch"), DTYPES, ids=str)
def test_host_tensors_of_both_libraries(of_numpy, of_torch):
    array, tensor = np.zeros((2, 3), of_numpy), torch.zeros((2, 3), dtype=of_torch)
    for value, address in ((array, array.ctypes.data), (tensor, tensor.data_ptr())):
        view = view_of("x", value, STREAM)
        assert (view.address, view.shape, view.gpu) == (address, (2, 3), None)
        assert view.dtype == np.dtype(of_numpy).name == str(of_torch).removeprefix("torch.")
        assert view.itemsize == array.itemsize
        assert view.nbytes == array.nbytes
        assert view.contiguous
        made = empty_like("y", value, (4,), view.dtype)
        assert type(made) is type(value)
        assert view_of("y", made, STREAM).dtype == view.dtype


@pytest.mark.parametrize(
    ("device", "gpu", "stream"),
    [((1, 0), None, None), ((3, 1), None, None), ((2, 1), 1, STREAM), ((13, 2), 2, STREAM)],
    ids=["host", "pinned", "GPU", "managed"],
)
def test_where_it_is_and_whose_stream_it_waits_for(device, gpu, stream):
    foreign = Foreign(np.zeros(4, np.float32), device)
    assert view_of("x", foreign, STREAM).gpu == gpu
    assert foreign.streams == [stream]


def test_an_offset_of_the_capsule_counts():
    array = np.zeros(4, np.float32)
    assert view_of("x", Foreign(array, (2, 0), 8), STREAM).address == array.ctypes.data + 8


@pytest.mark.parametrize("of_torch", [False, True])
def test_order_of_elements(of_torch):
    def contiguous(array):
        return view_of("x", torch.from_numpy(array) if of_torch else array, STREAM).contiguous

    whole = np.zeros((2, 3, 4), np.float32)
    assert contiguous(whole[1:])
    assert contiguous(whole[:, 1:2, :][:1])
    assert not contiguous(whole[:, :, 1:])
    assert not contiguous(whole.transpose(0, 2, 1))


def test_the_memory_lives_as_long_as_the_view():
    tensor = torch.full((1000,), 7, dtype=torch.int32)
    view = view_of("x", tensor, STREAM)
    del tensor
    gc.collect()
    others = [torch.zeros(1000, dtype=torch.int32) for _ in range(8)]
    assert np.ctypeslib.as_array((ctypes.c_int32 * 1000).from_address(view.address)).min() == 7
    del others


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([1.0], "speaks DLPack, got list"),
        (Foreign(np.zeros(1), (8, 0)), "on the CPU or an NVIDIA GPU, got DLPack device 8"),
        (torch.zeros(2, requires_grad=True), r"pass tensor\.detach\(\)"),
        (torch.zeros(2, 2).to_sparse(), "that DLPack can pass on"),
        (torch.zeros(2, dtype=torch.float8_e4m3fn), "that DLPack can pass on, got Unsupported"),
    ],
    ids=["list", "device", "gradient", "sparse", "float8"],
)
def test_what_is_refused(value, said):
    with pytest.raises(ArgumentError, match=said):
        view_of("x", value, STREAM)
