"""What files of a model directory hold, by their first bytes, and JSON read with care."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ModelError

LARGEST_JSON = 64 << 20
"""Bytes of JSON read at most; the index of a 100-billion-parameter model has a tenth of it."""

SINGLE_FILE_REMEDY = (
    "convert it: diffusers' CLASS.from_single_file(FILE).save_pretrained(DIRECTORY), "
    "and pass the directory"
)


class _Foreign(NamedTuple):
    starts: bytes
    what: str
    remedy: str


_FOREIGN = (
    _Foreign(
        b"version https://git-lfs",
        "a Git LFS pointer, not the file itself",
        "run `git lfs pull` in the clone, or download with `hf download`",
    ),
    _Foreign(b"GGUF", "a GGUF file, whose weights are quantized", SINGLE_FILE_REMEDY),
    _Foreign(b"PK\x03\x04", "pickled PyTorch weights", SINGLE_FILE_REMEDY),
    _Foreign(b"\x80\x02", "pickled PyTorch weights", SINGLE_FILE_REMEDY),
    _Foreign(b"<!DOCTYPE", "a web page, as a failed download leaves", "download it again"),
    _Foreign(b"<html", "a web page, as a failed download leaves", "download it again"),
)


def refuse_foreign(path: Path, expected: str) -> None:
    """ModelError where a file starts as something else that is known; else nothing."""
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError:
        return
    if start[8:9] == b"{":
        return  # safetensors: the length of the header comes first, and 640 begins as a pickle does
    for kind in _FOREIGN:
        if start.startswith(kind.starts):
            raise ModelError(str(path), expected=expected, actual=kind.what, remedy=kind.remedy)


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; ModelError if missing, too large or anything else."""
    expected = f"a JSON object of at most {LARGEST_JSON} bytes"
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST_JSON + 1)
        if len(text) > LARGEST_JSON:
            raise ModelError(str(path), expected=expected, actual="a larger file")
        value = json.loads(text)
    except OSError as error:
        raise ModelError(
            str(path), expected="a readable file", actual=error.strerror or str(error)
        ) from error
    except (ValueError, RecursionError) as error:
        refuse_foreign(path, "a JSON object")
        raise ModelError(str(path), expected=expected, actual=first_line(error)) from error
    if not isinstance(value, dict):
        raise ModelError(str(path), expected=expected, actual=f"a JSON {type(value).__name__}")
    return value


def first_line(error: BaseException) -> str:
    """An exception as one short line, for the `actual` of an error of ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
