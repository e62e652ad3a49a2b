"""A safetensors file read defensively: nothing is believed or allocated before it is checked."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..errors import PlanError
from . import checks
from .document import strict_json
from .limits import MAX_HEADER_BYTES

METADATA_KEY = "paro_plan"

_LENGTH_BYTES = 8
_DTYPES: dict[str, np.dtype[Any]] = {
    "I32": np.dtype("<i4"),
    "F32": np.dtype("<f4"),
    "U8": np.dtype("u1"),
}
_MAX_RANK = 8


@dataclass(frozen=True)
class Entry:
    """A tensor's place in the file; its bytes are known to lie inside."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class Container:
    """An open file whose header is checked: entries cover its data exactly, without overlap."""

    def __init__(self, file: BinaryIO) -> None:
        """Read and check the header of `file`."""
        size = os.fstat(file.fileno()).st_size
        header = _read_header(file, size)
        self._file = file
        self._data_at = _LENGTH_BYTES + len(header)
        raw: dict[str, Any] = strict_json("header", header)  # it starts with "{"
        self.document = _document(raw.pop("__metadata__", None))
        self.entries = {name: _entry(name, value) for name, value in raw.items()}
        _cover(self.entries, size - self._data_at)

    def check(self, name: str, dtype: str, shape: tuple[int | None, ...], symbols: str) -> Entry:
        """The entry of a tensor with this dtype and shape (None: any length)."""
        entry = self.entries.get(name)
        if entry is None:
            raise PlanError(name, expected="a tensor in the file", actual="none")
        fits = len(entry.shape) == len(shape) and all(
            wanted is None or wanted == actual
            for wanted, actual in zip(shape, entry.shape, strict=True)
        )
        if entry.dtype != dtype or not fits:
            sizes = ", ".join("any" if n is None else str(n) for n in shape)
            raise PlanError(
                name,
                expected=f"{dtype} of shape {symbols} = [{sizes}]",
                actual=f"{entry.dtype} of shape {list(entry.shape)}",
            )
        return entry

    def read_bytes(self, name: str) -> bytes:
        """The bytes of a tensor."""
        entry = self.entries[name]
        self._file.seek(self._data_at + entry.begin)
        data = self._file.read(entry.end - entry.begin)
        if len(data) != entry.end - entry.begin:
            raise PlanError(
                name, expected=f"{entry.end - entry.begin} bytes", actual=f"{len(data)} bytes"
            )
        return data

    def read(self, name: str) -> NDArray[Any]:
        """A tensor as a read-only array in the machine's byte order."""
        dtype = _DTYPES[self.entries[name].dtype]
        stored = np.frombuffer(self.read_bytes(name), dtype=dtype)
        native = stored.astype(dtype.newbyteorder("="), copy=False)
        return native.reshape(self.entries[name].shape)


@contextmanager
def open_container(path: Path) -> Iterator[Container]:
    """Open a plan file; `PlanError` names it whatever is wrong."""
    with checks.within(str(path)):
        try:
            if not path.exists():
                raise PlanError("file", expected="a plan", actual="no such file")
            # A pipe or device would block or never end.
            if not path.is_file():
                raise PlanError("file", expected="a regular file", actual="something else")
            with path.open("rb") as file:
                yield Container(file)
        except OSError as error:
            reason = error.strerror or str(error)
            raise PlanError("file", expected="a file that can be read", actual=reason) from error


def _read_header(file: BinaryIO, size: int) -> bytes:
    if size < _LENGTH_BYTES:
        raise PlanError("header", expected=f"{_LENGTH_BYTES} bytes or more", actual=f"{size} bytes")
    length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    limit = min(size - _LENGTH_BYTES, MAX_HEADER_BYTES)
    if length > limit:
        raise PlanError(
            "header",
            expected=f"a length of at most {limit} bytes",
            actual=f"{length}",
            remedy="the file is truncated or no plan",
        )
    header = file.read(length)
    if len(header) != length or not header.startswith(b"{"):
        raise PlanError("header", expected="a JSON object", actual=checks.shown(header))
    return header


def _document(metadata: object) -> str:
    if not isinstance(metadata, dict) or metadata.keys() != {METADATA_KEY}:
        raise PlanError(
            "__metadata__",
            expected=f"exactly the key {METADATA_KEY!r}",
            actual=checks.shown(list(metadata) if isinstance(metadata, dict) else metadata),
            remedy="this safetensors file is no plan; `paro-trt calibrate` makes one",
        )
    return checks.text(METADATA_KEY, metadata[METADATA_KEY])


def _entry(name: str, value: object) -> Entry:
    subject = name if len(name) <= 64 and name.isprintable() else "tensor"
    with checks.within(subject):
        if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
            raise PlanError(
                "entry", expected="dtype, shape, data_offsets", actual=checks.shown(value)
            )
        dtype = value["dtype"]
        if not isinstance(dtype, str) or dtype not in _DTYPES:
            raise PlanError("dtype", expected="I32, F32 or U8", actual=checks.shown(dtype))
        sizes, offsets = (checks.items(k, value[k]) for k in ("shape", "data_offsets"))
        if len(sizes) > _MAX_RANK or len(offsets) != 2:
            raise PlanError("entry", expected="a shape and two offsets", actual=checks.shown(value))
        shape = tuple(checks.integer("shape", n, 0, 1 << 48) for n in sizes)
        begin, end = (checks.integer("data_offsets", n, 0, 1 << 48) for n in offsets)
        size = math.prod(shape) * _DTYPES[dtype].itemsize
        if end - begin != size:
            raise PlanError(
                "data_offsets", expected=f"{size} bytes for {list(shape)}", actual=f"{end - begin}"
            )
        return Entry(dtype, shape, begin, end)


def _cover(entries: dict[str, Entry], size: int) -> None:
    """Refuse overlaps, gaps, and bytes that no tensor owns."""
    at = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != at or entry.end > size:
            raise PlanError(
                checks.shown(name) if not name.isprintable() else name[:64],
                expected=f"data that starts at {at} and ends by {size}",
                actual=f"data at {entry.begin}..{entry.end}",
                remedy="the file is truncated, or its tensors overlap or leave a gap",
            )
        at = entry.end
    if at != size:
        raise PlanError(
            "data", expected=f"{at} bytes, which the tensors cover", actual=f"{size} bytes"
        )
