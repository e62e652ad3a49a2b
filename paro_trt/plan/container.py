"""A safetensors file read defensively: sizes are checked before anything is allocated by them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from ..documents import convert_document, shown, strict_json
from ..errors import PlanError
from ..file_kinds import FileKind, file_kind
from . import checks
from .limits import MAX_HEADER_BYTES

METADATA_KEY = "paro_plan"

_LENGTH_BYTES = 8
_DTYPES: dict[str, np.dtype[Any]] = {
    "I32": np.dtype("<i4"),
    "F32": np.dtype("<f4"),
    "U8": np.dtype("u1"),
}

_Size = Annotated[int, Meta(ge=0, le=1 << 48)]


class _EntryDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tensor as the header describes it."""

    dtype: Literal["I32", "F32", "U8"]
    shape: Annotated[tuple[_Size, ...], Meta(max_length=8)]
    data_offsets: tuple[_Size, _Size]


@dataclass(frozen=True)
class Entry:
    """A tensor's place in the file. Its bytes are inside the file; `Container` has checked that."""

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
        raw: dict[str, Any] = strict_json(
            header, error=PlanError, name="header"
        )  # it starts with "{"
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
    """Open a plan file. Every `PlanError` raised inside the block names the file."""
    with checks.within(str(path)):
        try:
            if not path.exists():
                raise PlanError("file", expected="a plan", actual="no such file")
            # A pipe or device would block or never end.
            if not path.is_file():
                raise PlanError("file", expected="a regular file", actual="something else")
            if (kind := file_kind(path)) in (FileKind.ONNX, FileKind.JSON):
                raise PlanError("file", expected=FileKind.PLAN.value, actual=kind.value)
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
            remedy="the file is truncated or is not a plan; copy it again",
        )
    header = file.read(length)
    if len(header) != length or not header.startswith(b"{"):
        raise PlanError("header", expected="a JSON object", actual=shown(header))
    return header


def _document(metadata: object) -> str:
    if not isinstance(metadata, dict) or metadata.keys() != {METADATA_KEY}:
        raise PlanError(
            "__metadata__",
            expected=f"exactly the key {METADATA_KEY!r}",
            actual=shown(list(metadata) if isinstance(metadata, dict) else metadata),
            remedy="this safetensors file is not a plan; make a plan with `paro-trt calibrate`",
        )
    return checks.text(METADATA_KEY, metadata[METADATA_KEY])


def _entry(name: str, value: object) -> Entry:
    subject = name if len(name) <= 64 and name.isprintable() else "tensor"
    with checks.within(subject):
        entry = convert_document(value, _EntryDocument, error=PlanError, name="entry")
        begin, end = entry.data_offsets
        size = math.prod(entry.shape) * _DTYPES[entry.dtype].itemsize
        if end - begin != size:
            raise PlanError(
                "data_offsets",
                expected=f"{size} bytes for {list(entry.shape)}",
                actual=f"{end - begin}",
            )
        return Entry(entry.dtype, entry.shape, begin, end)


def _cover(entries: dict[str, Entry], size: int) -> None:
    """Refuse overlapping tensors, gaps, and bytes that belong to no tensor."""
    at = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != at or entry.end > size:
            raise PlanError(
                shown(name) if not name.isprintable() else name[:64],
                expected=f"data that starts at {at} and ends by {size}",
                actual=f"data at {entry.begin}..{entry.end}",
                remedy="the file is truncated, or its tensors overlap or leave a gap",
            )
        at = entry.end
    if at != size:
        raise PlanError(
            "data", expected=f"{at} bytes, which the tensors cover", actual=f"{size} bytes"
        )
