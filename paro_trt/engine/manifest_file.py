"""Manifest files: where they are, and how one is read.

A manifest is refused before its engine is loaded.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from ..documents import convert_document, shown, strict_json
from .errors import EngineError
from .file_hash import engine_sha256
from .manifest import EngineManifest

FORMAT = 1
SUFFIX = ".json"
MAX_BYTES = 1 << 22
"""A list of every linear weight of a large model takes half a megabyte."""

_REBUILD = "build the engine again: paro-trt build"


def manifest_path(engine: Path) -> Path:
    """Where the manifest of an engine file is written."""
    return engine.with_name(engine.name + SUFFIX)


def found_manifest(engine: Path) -> Path:
    """Where the manifest of an engine is: next to it, or next to the file that it links to."""
    own = manifest_path(engine)
    return own if own.is_file() else manifest_path(engine.resolve())


def is_undamaged(path: Path, manifest: EngineManifest) -> bool:
    """Whether the engine file has the size and the hash in its manifest."""
    expected = manifest.engine
    has_size = path.is_file() and path.stat().st_size == expected.bytes
    return has_size and engine_sha256(path) == expected.sha256


def read_manifest(path: str | PathLike[str]) -> EngineManifest:
    """Read and check a manifest file.

    Raises:
        EngineError: it is missing, too large, no JSON, of another format, or a value is missing,
            unknown, of another type or out of range.
    """
    path = Path(path)
    if not path.is_file():
        raise EngineError(
            str(path),
            expected="the engine's manifest",
            actual="a directory" if path.is_dir() else "no such file",
            remedy="keep it next to the engine; for an engine of trtexec or Polygraphy write it "
            "with paro-trt build --adopt",
        )
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise EngineError(
            str(path), expected=f"at most {MAX_BYTES} bytes", actual=f"{size} bytes",
            remedy=_REBUILD,
        )  # fmt: skip
    try:
        content = path.read_bytes()
    except OSError as error:
        raise EngineError(
            str(path), expected="a file that can be read", actual=error.strerror or str(error)
        ) from error
    return parse_manifest(str(path), content)


def parse_manifest(file: str, content: str | bytes) -> EngineManifest:
    """A manifest from its JSON text, see `read_manifest`. Messages name `file`."""
    document = strict_json(content, error=EngineError, file=file, name="manifest", remedy=_REBUILD)
    version = document.get("paro_engine", "none") if isinstance(document, dict) else FORMAT
    # Another format has other fields: the message names the format before any of them.
    if version == "none" or (type(version) is int and version != FORMAT):
        raise EngineError(
            f"{file}: paro_engine", expected=f"format {FORMAT}", remedy=_REBUILD,
            actual=version if version == "none" else shown(version),
        )  # fmt: skip
    return convert_document(
        document, EngineManifest, error=EngineError, file=file, name="manifest", remedy=_REBUILD
    )
