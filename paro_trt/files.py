"""Files: hashes of their content, and writing them so that a reader never sees a part of one."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from .errors import ArgumentError, ParoError

_HASH_CHUNK = 1 << 20

TEMPORARY = ".paro-"
"""Begins the names of files that are being written."""


def sha256_of_files(*paths: Path) -> str:
    """SHA-256 of the content of files, one after the other, read in pieces."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(_HASH_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that gets the name `path` only when it is complete.

    As `atomic_path`, and the bytes are flushed to the disk before the file is renamed.

    Args:
        path: the file's final name; its directory must exist.

    Yields:
        A binary file object, open for writing.

    Raises:
        ParoError: the directory is missing or refuses the file, `path` is a directory, or the disk
            is full. Other exceptions of the block pass unchanged.
    """
    with atomic_path(path) as temporary:
        # 0o666 leaves the permissions to the user's umask; tempfile would make the file private.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Name of a temporary file that gets the name `path` when the block ends, for other programs.

    The temporary file is in the same directory and has the same suffix. If the block ends early (a
    full disk, an interrupt), it is removed and a file already at `path` keeps its content. A
    symbolic link at `path` is replaced.

    Yields:
        A path at which there is no file yet; the block must make one.

    Raises:
        ParoError: as of `atomic_write`.
    """
    path = Path(path)
    if path.is_dir():
        raise ParoError(str(path), expected="a file name", actual="a directory")
    temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(8)}.tmp{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, ParoError):
            raise _refusal(path, error) from error
        raise
    _sync_directory(path.parent)


def check_writable(directory: Path, subject: str) -> None:
    """Make a file in `directory` and remove it: permission bits do not say whether that works.

    Raises:
        ArgumentError: the directory takes no files; the error names `subject`.
    """
    probe = directory / f"{TEMPORARY}{secrets.token_hex(8)}.tmp"
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise ArgumentError(
            subject,
            expected="a file in a directory that takes files",
            actual=f"{error.strerror or error} in {directory}",
            remedy="choose another directory, or check its permissions and free space",
        ) from error


def _sync_directory(directory: Path) -> None:
    """Make a rename in `directory` survive a loss of power, where the file system allows it."""
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError:
        return  # The file is written; a directory that cannot be opened is not a failure.
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def _refusal(path: Path, error: OSError) -> ParoError:
    reason = error.strerror or str(error)
    if not path.parent.is_dir():
        return ParoError(
            str(path),
            expected="an existing directory to write into",
            actual=reason,
            remedy=f"create {path.parent} first",
        )
    return ParoError(
        str(path),
        expected="a file that can be written",
        actual=reason,
        remedy="check permissions and free space; nothing was changed",
    )
