"""The hash of an engine file, computed once in a process while the file stays as it is."""

from __future__ import annotations

import time
from pathlib import Path

from ..files import sha256_of_files

_SETTLED_NS = 2_000_000_000
"""A file that changes twice within a tick of its file system's clock shows one time for both."""

_known: dict[tuple[int, int, int, int], str] = {}
"""By device, inode, size and time of the last change."""


def engine_sha256(path: Path) -> str:
    """SHA-256 of a file; hashing tens of GB again for each context or reload would take minutes."""
    status = path.stat()
    key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    if key in _known:
        return _known[key]
    digest = sha256_of_files(path)
    if time.time_ns() - status.st_mtime_ns > _SETTLED_NS:
        _known[key] = digest
    return digest
