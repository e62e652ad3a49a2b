"""ONNX Runtime's C interface as far as a custom op calls it, for a provider that is not here.

One node at a time: the test gives the tensors, and reads which calls were made. Every entry of the
table that an op must not call, or that is written down nowhere here, ends the process by a null
pointer; allocations that are not given back are seen.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

POINTER, SIZE, TEXT = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p
STREAM = 0x5EED0
"""What the provider says its stream is."""

_KINDS: dict[torch.dtype, int] = {torch.float32: 1, torch.float16: 10, torch.bfloat16: 16}

_SLOTS: dict[int, tuple[Any, ...]] = {
    0: (POINTER, ctypes.c_int, TEXT),
    26: (POINTER, TEXT, POINTER),
    27: (POINTER, POINTER, POINTER),
    28: (POINTER, POINTER, POINTER),
    51: (POINTER, POINTER, POINTER),
    61: (POINTER, POINTER, POINTER),
    62: (POINTER, POINTER, POINTER, SIZE),
    65: (POINTER, POINTER, POINTER),
    85: (POINTER, POINTER, TEXT, POINTER),
    86: (POINTER, POINTER, TEXT, POINTER),
    87: (POINTER, POINTER, TEXT, POINTER, POINTER),
    88: (POINTER, POINTER, POINTER),
    90: (POINTER, POINTER, SIZE, POINTER),
    91: (POINTER, POINTER, SIZE, POINTER, SIZE, POINTER),
    93: (None, POINTER),
    99: (None, POINTER),
    132: (None, POINTER),
    193: (POINTER, POINTER, POINTER),
    237: (POINTER, POINTER, TEXT, POINTER),
    277: (POINTER, POINTER, POINTER, SIZE, POINTER),
    278: (POINTER, POINTER, ctypes.c_int, POINTER),
}
"""Slot of the table -> the function's result and arguments."""

_OP_ENTRIES = {
    "name": (2, TEXT, POINTER),
    "provider": (3, TEXT, POINTER),
    "input_type": (4, ctypes.c_int, POINTER, SIZE),
    "input_memory": (12, ctypes.c_int, POINTER, SIZE),
    "destroy": (9, None, POINTER),
    "create": (17, POINTER, POINTER, POINTER, POINTER, POINTER),
    "compute": (18, POINTER, POINTER, POINTER),
}
"""Members of OrtCustomOp by the number of their pointer: the version takes the first."""


class _Base(ctypes.Structure):
    _fields_ = (
        ("get_api", ctypes.CFUNCTYPE(SIZE, ctypes.c_uint32)),
        ("version", ctypes.CFUNCTYPE(SIZE)),
    )


class _Allocator(ctypes.Structure):
    _fields_ = (
        ("version", ctypes.c_uint32),
        ("allocate", ctypes.CFUNCTYPE(SIZE, POINTER, SIZE)),
        ("free", ctypes.CFUNCTYPE(None, POINTER, POINTER)),
        ("info", ctypes.CFUNCTYPE(SIZE, POINTER)),
    )


_ALIVE: list[object] = []
"""A library keeps what it registered with a runtime, which lives as long as the process."""


class RefusedError(Exception):
    """A status that the op returned."""


@dataclass
class FakeOnnxRuntime:
    """A runtime with one provider.

    Args:
        version: of the interface that it has.
        stream: of the provider; None where it has none.
        fails: number of bytes from which its memory is exhausted.
    """

    version: int = 18
    stream: int | None = STREAM
    fails: int = 1 << 62
    calls: list[str] = field(default_factory=list)
    taken: dict[int, int] = field(default_factory=dict)
    """Memory that is lent now: address -> the stream that it belongs to, 0 for none."""
    sizes: list[int] = field(default_factory=list)
    last: int = 0
    """Address of the last memory that was lent."""
    allocators: int = 0
    """Those that were not released."""

    def __post_init__(self) -> None:
        _ALIVE.append(self)
        self._kept: list[Any] = []
        self._statuses: dict[int, str] = {}
        self._memory: dict[int, Any] = {}
        self._ops: list[int] = []
        self._tensors: list[torch.Tensor] = []
        self._attributes: Mapping[str, float | int | str] = {}
        self._table = (POINTER * 300)()
        for slot, (result, *arguments) in _SLOTS.items():
            self._set(slot, result, arguments)
        self._allocator = _Allocator(
            17,
            _Allocator._fields_[1][1](lambda _self, size: self._take("Alloc", size, 0)),
            _Allocator._fields_[2][1](lambda _self, memory: self._free(memory)),
            _Allocator._fields_[3][1](lambda _self: 0xF0),
        )

    def register(self, library: ctypes.CDLL) -> list[FakeOp]:
        """Register a library, once or again; its ops.

        Raises:
            RefusedError: the library returned a status.
        """
        entry = library.RegisterCustomOps
        entry.restype = POINTER
        text = ctypes.create_string_buffer(f"1.{self.version}.0".encode())
        table = ctypes.addressof(self._table)
        base = _Base(
            _Base._fields_[0][1](lambda version: table if version <= self.version else 0),
            _Base._fields_[1][1](lambda: ctypes.addressof(text)),
        )
        self._check(entry(POINTER(1), ctypes.byref(base)))
        return [FakeOp(self, address) for address in self._ops]

    def node(self, attributes: Mapping[str, float | int | str]) -> int:
        """Attributes of the node that is made next; its KernelInfo."""
        self._attributes = attributes
        return 0xA0

    def context(self, inputs: list[torch.Tensor], output: torch.Tensor) -> int:
        """Tensors of the execution that comes next; its KernelContext."""
        self._tensors = [*inputs, output]
        return 0xB0

    def _check(self, status: int | None) -> None:
        if status:
            raise RefusedError(self._statuses.pop(status))

    def _set(self, slot: int, result: Any, arguments: list[Any]) -> None:
        work: Callable[..., Any] = getattr(self, f"_slot_{slot}")
        function = ctypes.CFUNCTYPE(result, *arguments)(work)
        self._kept.append(function)
        self._table[slot] = ctypes.cast(function, POINTER).value

    def _slot_0(self, code: int, message: bytes) -> int:
        number = len(self._kept) + len(self._statuses) + 1000
        self._statuses[number] = f"{code}: {message.decode()}"
        return number

    def _slot_26(self, name: bytes, out: int) -> None:
        assert name == b"paro"
        _store(out, 0xD0)

    def _slot_27(self, _domain: int, op: int) -> None:
        self._ops.append(op)

    def _slot_28(self, _options: int, _domain: int) -> None:
        self.calls.append("AddCustomOpDomain")

    def _slot_51(self, value: int, out: int) -> None:
        _store(out, self._tensors[value - 1].data_ptr())

    def _slot_61(self, info: int, out: int) -> None:
        _store(out, self._tensors[info - 1].dim())

    def _slot_62(self, info: int, sizes: int, count: int) -> None:
        array = (ctypes.c_int64 * count).from_address(sizes)
        array[:] = list(self._tensors[info - 1].shape)[:count]

    def _slot_65(self, value: int, out: int) -> None:
        _store(out, value)

    def _slot_85(self, _info: int, name: bytes, out: int) -> int | None:
        return self._attribute(name, ctypes.c_float, out, float)

    def _slot_86(self, _info: int, name: bytes, out: int) -> int | None:
        return self._attribute(name, ctypes.c_int64, out, int)

    def _slot_87(self, _info: int, name: bytes, out: int, size: int) -> int | None:
        text = self._attributes.get(name.decode())
        if not isinstance(text, str):
            return self._slot_0(1, b"no such string attribute")
        _store(size, len(text) + 1)
        if out:
            ctypes.memmove(out, text.encode() + b"\0", len(text) + 1)
        return None

    def _slot_88(self, _context: int, out: int) -> None:
        _store(out, len(self._tensors) - 1)

    def _slot_90(self, _context: int, index: int, out: int) -> None:
        _store(out, index + 1)

    def _slot_91(self, _context: int, _index: int, sizes: int, rank: int, out: int) -> None:
        shape = (ctypes.c_int64 * rank).from_address(sizes)
        assert list(shape) == list(self._tensors[-1].shape)
        _store(out, len(self._tensors))

    def _slot_93(self, status: int) -> None:
        self._statuses.pop(status)

    def _slot_99(self, _info: int) -> None: ...

    def _slot_132(self, _allocator: int) -> None:
        self.allocators -= 1

    def _slot_193(self, _context: int, out: int) -> None:
        self.calls.append("GetGPUComputeStream")
        _store(out, self.stream or 0)

    def _slot_237(self, _options: int, _key: bytes, out: int) -> None:
        ctypes.c_int.from_address(out).value = 0

    def _slot_277(self, _context: int, memory: int, size: int, out: int) -> int | None:
        assert memory == 0xF0
        _store(out, self._take("GetScratchBuffer", size, self.stream or 0))
        return None

    def _slot_278(self, _info: int, kind: int, out: int) -> None:
        assert kind == 0
        self.allocators += 1
        _store(out, ctypes.addressof(self._allocator))

    def _attribute(self, name: bytes, form: Any, out: int, kind: type) -> int | None:
        value = self._attributes.get(name.decode())
        if type(value) is not kind:
            return self._slot_0(1, b"no such attribute")
        form.from_address(out).value = value
        return None

    def _take(self, call: str, size: int, stream: int) -> int:
        self.calls.append(call)
        if size >= self.fails:
            return 0
        block = (ctypes.c_char * (size + 320))()
        address = (ctypes.addressof(block) + 255) // 256 * 256 + 64  # as ONNX Runtime's own
        self._memory[address] = block
        self.taken[address] = stream
        self.sizes.append(size)
        self.last = address
        return address

    def _free(self, address: int) -> None:
        self.calls.append("Free")
        del self.taken[address]


class FakeOp:
    """One overload, an OrtCustomOp."""

    def __init__(self, runtime: FakeOnnxRuntime, address: int) -> None:
        self.runtime, self.address = runtime, address

    def _call(self, entry: str, *arguments: Any) -> Any:
        index, result, *forms = _OP_ENTRIES[entry]
        pointer = POINTER.from_address(self.address + 8 * index).value
        assert pointer is not None
        return ctypes.CFUNCTYPE(result, *forms)(pointer)(*arguments)

    @property
    def provider(self) -> str | None:
        """ONNX Runtime's name of the execution provider."""
        name: bytes | None = self._call("provider", self.address)
        return None if name is None else name.decode()

    def takes(self, dtype: torch.dtype) -> bool:
        """Whether query, key and value have this type."""
        return bool(self._call("input_type", self.address, 0) == _KINDS[dtype])

    def input_memory(self, index: int) -> int:
        """Where an input must lie: 0, the provider's memory."""
        return int(self._call("input_memory", self.address, index))

    def run(
        self,
        inputs: list[torch.Tensor],
        attributes: Mapping[str, float | int | str],
        repeat: int = 1,
    ) -> torch.Tensor:
        """The output of a node, made, executed and destroyed.

        Raises:
            RefusedError: the op returned a status.
        """
        runtime, kernel = self.runtime, POINTER()
        output = torch.full_like(inputs[0], float("nan"))
        table = ctypes.addressof(runtime._table)
        info = runtime.node(attributes)
        runtime._check(self._call("create", self.address, table, info, ctypes.byref(kernel)))
        try:
            for _ in range(repeat):
                context = runtime.context(inputs, output)
                runtime._check(self._call("compute", kernel, context))
        finally:
            self._call("destroy", kernel)
        return output


def _store(address: int, value: int) -> None:
    POINTER.from_address(address).value = value
