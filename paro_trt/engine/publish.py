"""Writing an engine and its manifest."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ..files import atomic_write
from .manifest import EngineFile, EngineManifest
from .manifest_file import manifest_path


def engine_file(data: Any) -> EngineFile:
    """Size and hash of a serialized engine, a buffer."""
    view = memoryview(data)
    return EngineFile(view.nbytes, hashlib.sha256(view).hexdigest())


def write_engine(path: Path, data: Any, manifest: EngineManifest) -> None:
    """Engine first: a manifest never describes an engine that is not there."""
    with atomic_write(path) as file:
        file.write(memoryview(data))
        # Only now: a disk that is full leaves the old engine with its manifest.
        manifest_path(path).unlink(missing_ok=True)
    write_manifest(path, manifest)


def write_manifest(path: Path, manifest: EngineManifest) -> None:
    """Write the manifest next to an engine."""
    with atomic_write(manifest_path(path)) as file:
        file.write(json.dumps(manifest.to_json(), indent=1).encode())
