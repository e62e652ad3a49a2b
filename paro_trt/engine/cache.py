"""Engines of earlier builds, found by a key of what they were built from."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

from ..errors import ParoError
from .manifest_file import is_undamaged, manifest_path, read_manifest


class EngineCache:
    """A directory of engines, each under its key. On one file system, files are linked.

    Args:
        directory: made if it is missing.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def find(self, key: str) -> Path | None:
        """The engine of this key, or None if there is none or a file of it is damaged."""
        path = self._path(key)
        try:
            manifest = read_manifest(manifest_path(path))
        except ParoError:
            return None
        return path if manifest.key == key and is_undamaged(path, manifest) else None

    def keep(self, key: str, engine: Path) -> None:
        """Remember a built engine."""
        self._directory.mkdir(parents=True, exist_ok=True)
        self.copy(engine, self._path(key))

    def copy(self, source: Path, target: Path) -> None:
        """Link or copy an engine and its manifest to another name."""
        for old, new in ((source, target), (manifest_path(source), manifest_path(target))):
            staged = new.with_name(f".paro-{secrets.token_hex(8)}.tmp")
            try:
                os.link(old, staged)
            except OSError:  # another file system, or one without links
                shutil.copyfile(old, staged)
            staged.replace(new)

    def _path(self, key: str) -> Path:
        return self._directory / f"{key}.engine"
