"""The C ABI (plugins/include/paro/paro_c.h) by ctypes: native implementations of the op.

A native library is one shared object that exports the ABI; which ones this installation has is
`find_library`'s to say. Nothing is copied: tensors are passed by address.
"""

from __future__ import annotations

import ctypes
import os
import sysconfig
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from .errors import ArgumentError, BackendUnavailableError, ParoError
from .op.spec import AttentionConfig, AttentionInputs

ABI_VERSION = 2
WORKSPACE_ALIGNMENT = 256
STATUS_UNSUPPORTED = 2

LIBRARY_DIRECTORY_VARIABLE = "PARO_LIBRARY_DIR"
"""Environment variable: a directory to look in before the installed ones."""

DTYPES = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2}


class CAttention(ctypes.Structure):
    """`paro_attention`, field by field."""

    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        ("batch", ctypes.c_int32),
        ("tokens", ctypes.c_int32),
        ("heads", ctypes.c_int32),
        ("kv_heads", ctypes.c_int32),
        ("head_dim", ctypes.c_int32),
        ("orders", ctypes.c_int32),
        ("bins", ctypes.c_int32),
        ("dtype", ctypes.c_int32),
        ("block_q", ctypes.c_int32),
        ("block_k", ctypes.c_int32),
        ("qk_bits", ctypes.c_int32),
        ("pv_bits", ctypes.c_int32),
        ("pool_dropped", ctypes.c_int32),
        ("scale", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in AttentionInputs._fields),
        ("output", ctypes.c_void_p),
    )


class CLaunch(ctypes.Structure):
    """`paro_launch`, field by field."""

    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        ("stream", ctypes.c_void_p),
        ("threads", ctypes.c_int32),
        ("sm", ctypes.c_int32),
        ("max_workspace", ctypes.c_size_t),
    )


class NativeError(ParoError, RuntimeError):
    """A native library refused a call; the message is the library's own."""

    def __init__(self, library: str, status: int, message: str) -> None:
        self.status = status
        super().__init__(library, expected="success", actual=f"status {status} ({message})")


class NativeLibrary:
    """One loaded library.

    Raises:
        BackendUnavailableError: the file cannot be loaded or has another ABI version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._library = ctypes.CDLL(str(path))
            self._library.paro_abi_version.restype = ctypes.c_uint32
            version = int(self._library.paro_abi_version())
        except (OSError, AttributeError) as error:
            raise BackendUnavailableError(
                str(path),
                expected="a library that exports the paro C ABI",
                actual=str(error),
                remedy="build it again: pip install .",
            ) from error
        if version != ABI_VERSION:
            raise BackendUnavailableError(
                str(path),
                expected=f"ABI version {ABI_VERSION}",
                actual=str(version),
                remedy="build it again: pip install .",
            )
        self._library.paro_library_name.restype = ctypes.c_char_p
        self._library.paro_last_error.restype = ctypes.c_char_p

    @property
    def name(self) -> str:
        """Name and version, as the library gives them."""
        return bytes(self._library.paro_library_name()).decode()

    def describe(
        self, inputs: AttentionInputs, config: AttentionConfig, threads: int = 0, sm: int = 0
    ) -> str:
        """Which kernel would run this call, and why; `sm` as in `forward`."""
        call, launch = _call(inputs, config, output=None), _launch(threads, sm)
        text = ctypes.create_string_buffer(512)
        self._check(
            self._library.paro_describe(
                ctypes.byref(call), ctypes.byref(launch), text, ctypes.c_size_t(len(text))
            )
        )
        return text.value.decode()

    def workspace_bytes(
        self,
        inputs: AttentionInputs,
        config: AttentionConfig,
        threads: int = 0,
        sm: int = 0,
        max_workspace: int = 0,
    ) -> int:
        """Bytes of workspace that `forward` allocates for this call."""
        call, launch = _call(inputs, config, output=None), _launch(threads, sm, max_workspace)
        size = ctypes.c_size_t()
        self._check(
            self._library.paro_workspace_bytes(
                ctypes.byref(call), ctypes.byref(launch), ctypes.byref(size)
            )
        )
        return size.value

    def forward(
        self,
        inputs: AttentionInputs,
        config: AttentionConfig,
        threads: int | None = None,
        sm: int = 0,
        max_workspace: int = 0,
    ) -> Tensor:
        """The op's output [B,S,H,D] for validated CPU inputs; they are made contiguous if needed.

        Args:
            threads: how many to use; None for torch's own number.
            sm: CUDA kernels: the GPU to run as, 10 * major + minor; 0 for the library's default.
            max_workspace: CUDA kernels: take heads in groups that need no more bytes; 0: no limit.

        Raises:
            NativeError: the library refused, with its reason.
        """
        inputs = AttentionInputs(*(tensor.contiguous() for tensor in inputs))
        count = torch.get_num_threads() if threads is None else threads
        output = torch.empty_like(inputs.query)
        launch = _launch(count, sm, max_workspace)
        call = _call(inputs, config, output)
        size = self.workspace_bytes(inputs, config, count, sm, max_workspace)
        workspace = torch.empty(size + WORKSPACE_ALIGNMENT, dtype=torch.uint8)
        address = -(-workspace.data_ptr() // WORKSPACE_ALIGNMENT) * WORKSPACE_ALIGNMENT
        self._check(
            self._library.paro_forward(
                ctypes.byref(call),
                ctypes.byref(launch),
                ctypes.c_void_p(address),
                ctypes.c_size_t(size),
            )
        )
        return output

    def measure_peak(self, threads: int) -> float:
        """FLOP/s of multiply-adds in registers on `threads` threads, measured now."""
        launch, rate = _launch(threads), ctypes.c_double()
        self._check(self._library.paro_measure_peak(ctypes.byref(launch), ctypes.byref(rate)))
        return rate.value

    def _check(self, status: int) -> None:
        if not status:
            return
        message = bytes(self._library.paro_last_error()).decode(errors="replace")
        if status == STATUS_UNSUPPORTED:
            raise BackendUnavailableError(
                self.name,
                expected="a call that it supports",
                actual=message,
                remedy="impl='reference' takes any call",
            )
        raise NativeError(self.name, status, message)


def library_path(name: str) -> Path:
    """Where libparo_<name> of this installation is.

    Raises:
        BackendUnavailableError: it was not built.
    """
    file_name = f"libparo_{name}.so"
    own = os.environ.get(LIBRARY_DIRECTORY_VARIABLE)
    # An editable installation keeps what it built in site-packages, away from the sources.
    installed = Path(sysconfig.get_path("platlib")) / "paro_trt" / "lib"
    directories = [Path(own)] if own else [Path(__file__).parent / "lib", installed]
    for directory in directories:
        if (directory / file_name).is_file():
            return directory / file_name
    raise BackendUnavailableError(
        f"impl={name!r}",
        expected=f"{file_name} in {' or '.join(map(str, directories))}",
        actual="no such file",
        remedy="install a C++20 compiler (g++ 11 or later), then: pip install --force-reinstall .",
    )


@cache
def load_library(path: Path) -> NativeLibrary:
    """The library at `path`, loaded once."""
    return NativeLibrary(path)


def _call(inputs: AttentionInputs, config: AttentionConfig, output: Tensor | None) -> CAttention:
    dtype = inputs.query.dtype
    if dtype not in DTYPES:
        names = ", ".join(str(known).removeprefix("torch.") for known in DTYPES)
        raise ArgumentError("query", expected=names, actual=str(dtype))
    batch, tokens, heads, head_dim = inputs.query.shape
    addresses = {name: tensor.data_ptr() for name, tensor in inputs._asdict().items()}
    return CAttention(
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
        scale=config.scale,
        output=None if output is None else output.data_ptr(),
        **addresses,
    )


def _launch(threads: int, sm: int = 0, max_workspace: int = 0) -> CLaunch:
    return CLaunch(
        struct_size=ctypes.sizeof(CLaunch),
        stream=None,
        threads=threads,
        sm=sm,
        max_workspace=max_workspace,
    )
