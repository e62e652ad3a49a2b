"""What a file holds, judged by its first bytes; its name says nothing."""

from __future__ import annotations

from enum import Enum
from pathlib import Path

_LENGTH_BYTES = 8
_PLAN_HEADER = b'{"__metadata__":{"paro_plan"'


class FileKind(Enum):
    """The kinds of file that this package reads and writes, as a refusal names them."""

    PLAN = "a plan (safetensors)"
    TENSORS = "a safetensors file"
    ONNX = "an ONNX model"
    JSON = "a JSON document"


def file_kind(path: Path) -> FileKind | None:
    """The kind of a file by its first bytes, None where it is another or cannot be read."""
    try:
        with path.open("rb") as file:
            start = file.read(_LENGTH_BYTES + len(_PLAN_HEADER))
    except OSError:
        return None
    # safetensors: the header's length, whose high bytes are zero as no JSON text's are, and the
    # header, a JSON object. Its first byte may be that of an ONNX model.
    if start[_LENGTH_BYTES - 2 : _LENGTH_BYTES + 1] == b"\0\0{":
        planned = start[_LENGTH_BYTES:] == _PLAN_HEADER
        return FileKind.PLAN if planned else FileKind.TENSORS
    if start.lstrip().startswith(b"{"):
        return FileKind.JSON
    # ONNX: every writer puts field 1 (ir_version), a varint, first.
    return FileKind.ONNX if start.startswith(b"\x08") else None
