"""File names as options take them, and checks that are worth making before any work begins."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from ..errors import ArgumentError
from ..file_kinds import FileKind, file_kind
from ..files import check_writable

ForceOption: TypeAlias = Annotated[
    bool, typer.Option("--force", help="Replace whatever file has the name of the output.")
]

_READ = 16
"""Bytes of a page, a table or media that tell its kind."""


class Kind(Enum):
    """What a verb writes, as it is called in messages."""

    PLAN = "a plan"
    TENSORS = "a safetensors file"
    ONNX = "an ONNX model"
    ENGINE = "an engine with its manifest"
    PAGE = "an HTML page"
    MEDIA = "a video or picture"
    TABLE = "a table of bench"

    def describes(self, path: Path) -> bool:
        """Whether the file at `path` is of this kind, by its first bytes."""
        if self in _FILE_KINDS:
            return file_kind(path) is _FILE_KINDS[self]
        if self is Kind.ENGINE:
            return path.with_name(f"{path.name}.json").is_file()
        with path.open("rb") as file:
            start = file.read(_READ)
        if self is Kind.MEDIA:
            return start[4:8] == b"ftyp" or start.startswith(b"\x89PNG")
        begins = {Kind.PAGE: b"<!DOCTYPE html>", Kind.TABLE: b"group,tokens,"}
        return start.startswith(begins[self])


_FILE_KINDS = {
    Kind.PLAN: FileKind.PLAN,
    Kind.TENSORS: FileKind.TENSORS,
    Kind.ONNX: FileKind.ONNX,
}


def check_output(
    path: Path,
    kind: Kind | None = None,
    *,
    force: bool | None = None,
    reads: Iterable[Path] = (),
    option: str = "-o",
) -> Path:
    """`path`, if a file can take that name.

    A file of the same kind, an earlier result, may be replaced once the new one is complete, and
    stderr says so. One of another kind was hardly meant.

    Args:
        path: of the file.
        kind: what will be written; None leaves other kinds unchecked.
        force: replace a file of another kind too; None for a verb that has no --force.
        reads: files that the verb reads, which it cannot replace.
        option: that names the file.

    Raises:
        ArgumentError: the name is that of a directory, of one of `reads` or of a file of another
            kind, or its directory does not exist or takes no files.
    """
    subject = f"{option} {path}"
    if path.is_dir():
        raise ArgumentError(subject, expected="a file name", actual="a directory")
    if not path.parent.is_dir():
        raise ArgumentError(
            subject,
            expected="a file in an existing directory",
            actual=f"no directory {path.parent}",
            remedy=shlex.join(("mkdir", "-p", str(path.parent))),
        )
    check_writable(path.parent, subject)
    if not path.exists():
        return path
    if any(other.exists() and path.samefile(other) for other in reads):
        raise ArgumentError(subject, expected="a file to write to", actual="the file that is read")
    size = path.stat().st_size
    if kind is not None and size and not force and not kind.describes(path):
        remedy = "choose another name"
        raise ArgumentError(
            subject,
            expected=f"a name that is free, or of {kind.value}",
            actual=f"another file, of {size} bytes",
            remedy=remedy if force is None else f"{remedy}; --force replaces it",
        )
    if size and kind is not Kind.ENGINE:  # an engine that is up to date is kept
        typer.echo(f"note: {path} is there and will be replaced", err=True)
    return path


def require_file(path: Path, what: str) -> Path:
    """`path`, if it is a file; ArgumentError otherwise. `what` says of which kind."""
    if not path.is_file():
        actual = "a directory" if path.is_dir() else "no such file"
        raise ArgumentError(str(path), expected=what, actual=actual)
    return path


def expand_home(text: str) -> str:
    """A path with the home directory in place of `~`, for options that are no `Path`s."""
    return os.path.expanduser(text)
