"""Checks of file names that are worth making before any work begins."""

from __future__ import annotations

from pathlib import Path

from ..errors import ArgumentError


def check_output(path: Path) -> Path:
    """`path`, if a file can take that name.

    Raises:
        ArgumentError: it is a directory, or its directory does not exist.
    """
    if path.is_dir():
        raise ArgumentError(f"-o {path}", expected="a file name", actual="a directory")
    if not path.parent.is_dir():
        raise ArgumentError(
            f"-o {path}",
            expected="a file in an existing directory",
            actual=f"no directory {path.parent}",
            remedy=f"mkdir -p {path.parent}",
        )
    return path


def require_file(path: Path, what: str) -> Path:
    """`path`, if it is a file; ArgumentError otherwise. `what` says of which kind."""
    if not path.is_file():
        actual = "a directory" if path.is_dir() else "no such file"
        raise ArgumentError(str(path), expected=what, actual=actual)
    return path
