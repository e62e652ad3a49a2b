"""The C ABI (plugins/include/paro/paro_c.h) by ctypes: native implementations of the op.

A native library is one shared object that exports the ABI; `library_path` says which ones
this installation has. Nothing is copied: tensors are passed by address.
"""

from __future__ import annotations

import ctypes
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from ..errors import BackendUnavailableError, ParoError
from ..library_files import BUILD_COMMANDS
from ..library_files import LIBRARY_DIRECTORY_VARIABLE as LIBRARY_DIRECTORY_VARIABLE
from ..library_files import library_path as library_path
from .c_abi import (
    ABI_VERSION,
    WORKSPACE_ALIGNMENT,
    CAttention,
    CLaunch,
    Status,
    attention_call,
    launch_on,
    with_addresses,
)
from .spec import AttentionConfig, AttentionInputs


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
        build = BUILD_COMMANDS.get(path.stem.removeprefix("libparo_"), "pip install .")
        try:
            self._library = ctypes.CDLL(str(path))
            self._library.paro_abi_version.restype = ctypes.c_uint32
            version = int(self._library.paro_abi_version())
        except (OSError, AttributeError) as error:
            raise BackendUnavailableError(
                str(path),
                expected="a library that exports the paro C ABI",
                actual=str(error),
                remedy=f"build it again: {build}",
            ) from error
        if version != ABI_VERSION:
            raise BackendUnavailableError(
                str(path),
                expected=f"ABI version {ABI_VERSION}",
                actual=str(version),
                remedy=f"build it again: {build}",
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
        text = ctypes.create_string_buffer(512)
        with _guard(inputs.query.device):
            call, launch = attention_call(inputs, config), launch_on(threads=threads, sm=sm)
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
        with _guard(inputs.query.device):
            launch = launch_on(threads=threads, sm=sm, max_workspace=max_workspace)
            return self.workspace_bytes_of(attention_call(inputs, config), launch)

    def forward(
        self,
        inputs: AttentionInputs,
        config: AttentionConfig,
        threads: int | None = None,
        sm: int = 0,
        max_workspace: int = 0,
    ) -> Tensor:
        """The op's output [B,S,H,D] for validated inputs on one device.

        They are made contiguous if needed. On a GPU the work is queued in torch's current stream,
        and the workspace comes from torch's allocator, which orders its reuse by that stream.

        Args:
            threads: how many to use; None for torch's own number.
            sm: CUDA kernels: the GPU to run as, 10 * major + minor; 0 for the library's default.
            max_workspace: CUDA kernels: take heads in groups that need no more bytes; 0: no limit.

        Raises:
            BackendUnavailableError: the library lacks such a kernel, or finds no usable GPU.
            NativeError: the library refused, with its reason.
        """
        return RepeatedCall(self, inputs, config, threads, sm, max_workspace).forward(inputs)

    def workspace_bytes_of(self, call: CAttention, launch: CLaunch) -> int:
        """`workspace_bytes` for addresses, on the current device."""
        size = ctypes.c_size_t()
        self._check(
            self._library.paro_workspace_bytes(
                ctypes.byref(call), ctypes.byref(launch), ctypes.byref(size)
            )
        )
        return size.value

    def forward_raw(
        self, call: CAttention, launch: CLaunch, workspace: int, workspace_bytes: int
    ) -> None:
        """`forward` for addresses, on the current device and in the launch's stream.

        All memory must stay allocated and unchanged until the stream has finished with it.

        Args:
            workspace: address, a multiple of WORKSPACE_ALIGNMENT.
            workspace_bytes: at least `workspace_bytes_of` the same call.
        """
        self._check(
            self._library.paro_forward(
                ctypes.byref(call),
                ctypes.byref(launch),
                ctypes.c_void_p(workspace),
                ctypes.c_size_t(workspace_bytes),
            )
        )

    def measure_peak(self, threads: int) -> float:
        """FLOP/s of multiply-adds in registers on `threads` threads, measured now."""
        launch, rate = launch_on(threads=threads), ctypes.c_double()
        self._check(self._library.paro_measure_peak(ctypes.byref(launch), ctypes.byref(rate)))
        return rate.value

    def _check(self, status: int) -> None:
        if status == Status.OK:
            return
        message = bytes(self._library.paro_last_error()).decode(errors="replace")
        if status == Status.UNSUPPORTED:
            raise BackendUnavailableError(
                self.name,
                expected="a call that it supports",
                actual=message,
                remedy="impl='reference' takes any call",
            )
        if status == Status.NO_DEVICE:
            raise BackendUnavailableError(
                self.name,
                expected="a GPU that it can use",
                actual=message,
                remedy="paro-trt doctor says what is here; impl='cpu' needs no GPU",
            )
        raise NativeError(self.name, status, message)


class RepeatedCall:
    """Calls of one size on one device: what does not change is asked and filled in once.

    A model makes the same few calls in every step, and asking anew would cost more than the launch.
    Several threads may share one.

    Args:
        library: computes them.
        inputs: of a call of this size.
        config: the attributes.
        threads, sm, max_workspace: as of `NativeLibrary.forward`.
    """

    def __init__(
        self,
        library: NativeLibrary,
        inputs: AttentionInputs,
        config: AttentionConfig,
        threads: int | None = None,
        sm: int = 0,
        max_workspace: int = 0,
    ) -> None:
        self._library = library
        self._device = inputs.query.device
        self._call = attention_call(inputs, config)
        self._threads, self._options = threads, (sm, max_workspace)
        self._on_gpu = self._device.type == "cuda"
        self._launches: dict[int, tuple[CLaunch, int]] = {}

    def forward(self, inputs: AttentionInputs) -> Tensor:
        """As `NativeLibrary.forward`, for inputs of this size and type."""
        for tensor in inputs:
            if tensor is not None and not tensor.is_contiguous():
                inputs = inputs.converted(Tensor.contiguous)
                break
        output = torch.empty_like(inputs.query)
        call = with_addresses(self._call, inputs, output)
        count = torch.get_num_threads() if self._threads is None else self._threads
        if self._on_gpu:
            with torch.cuda.device(self._device):
                self._run(call, count)
        else:
            self._run(call, count)
        return output

    def _run(self, call: CAttention, threads: int) -> None:
        known = self._launches.get(threads)
        if known is None or self._on_gpu:
            # On a GPU the current stream may be another one.
            launch = launch_on(self._device, threads, *self._options)
            size = known[1] if known else self._library.workspace_bytes_of(call, launch)
            known = self._launches[threads] = launch, size
        try:
            self._run_in(call, *known)
        except NativeError as error:
            # The environment variable of the CPU backend's instruction set may have changed.
            if error.status != Status.WORKSPACE_TOO_SMALL:
                raise
            launch, _ = known
            self._run_in(call, launch, self._library.workspace_bytes_of(call, launch))

    def _run_in(self, call: CAttention, launch: CLaunch, size: int) -> None:
        workspace = torch.empty(size + WORKSPACE_ALIGNMENT, dtype=torch.uint8, device=self._device)
        address = -(-workspace.data_ptr() // WORKSPACE_ALIGNMENT) * WORKSPACE_ALIGNMENT
        self._library.forward_raw(call, launch, address, size)


@cache
def load_library(path: Path) -> NativeLibrary:
    """The library at `path`, loaded once."""
    return NativeLibrary(path)


def _guard(device: torch.device) -> AbstractContextManager[object]:
    """Makes a GPU current, which is where the library computes."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
