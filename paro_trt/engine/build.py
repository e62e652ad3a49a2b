"""Builds an engine and its manifest from an ONNX file. Either both files are written or none."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from ..errors import ArgumentError, ParoError
from ..files import atomic_write
from ..onnx_file.source import read_source
from .cache import EngineCache
from .errors import EngineError
from .estimate import estimate_memory
from .manifest import EngineManifest, MemoryRecord
from .manifest_file import is_undamaged, manifest_path, read_manifest
from .memory import BuilderMemory
from .network import build_network, read_timing_cache
from .parts import engine_key, gather_parts
from .plugin_library import load_plugin
from .progress import BuildProgress
from .publish import engine_file, write_engine, write_manifest
from .record import engine_manifest
from .settings import BuildSettings

_OTHER_OPTIONS = "pass the options that it was built with"


@dataclass(frozen=True)
class BuildReport:
    """The result of `build_engine`.

    Args:
        path: the engine.
        manifest: its manifest.
        reused: nothing was built, because an engine of the same key exists here or in the cache.
    """

    path: Path
    manifest: EngineManifest
    reused: bool


def build_engine(
    onnx_file: str | PathLike[str],
    path: str | PathLike[str],
    settings: BuildSettings | None = None,
    *,
    dense: bool = False,
    timing_cache: Path | None = None,
    cache: EngineCache | None = None,
    progress: BuildProgress | None = None,
    announce: Callable[[MemoryRecord], None] | None = None,
) -> BuildReport:
    """Build the engine of an exported model, with its manifest `path` + ".json" next to it.

    Args:
        onnx_file: from `paro-trt export`, in float16 or bfloat16 for the plugin.
        path: of the engine; replaced, like the manifest, only once the new one is whole.
        settings: how to build; None means defaults.
        dense: the file is a baseline without PAROAttention, and that is meant.
        timing_cache: file of measured kernel times, read if it is there and written back.
        cache: engines of earlier builds; None looks only at `path`.
        progress: receives the progress of the build.
        announce: told before a build what the engine is estimated to take of a GPU's memory.

    Raises:
        OnnxFileError: the file cannot be built from.
        ArgumentError: the settings do not fit the file.
        BackendUnavailableError: TensorRT, CUDA, a GPU or the plugin is missing.
        BuildError: TensorRT refuses.
        EngineError: another plugin of this name is loaded.
        ParoError: the files cannot be written.
    """
    path, settings = Path(path), settings or BuildSettings()
    if path.is_dir():
        raise ArgumentError(str(path), expected="a file name", actual="a directory")
    parts = gather_parts(read_source(onnx_file, dense=dense), settings)
    key = engine_key(parts, settings)
    if _is_current(path, key):
        return BuildReport(path, read_manifest(manifest_path(path)), reused=True)
    if cache is not None and (found := cache.find(key)) is not None:
        cache.copy(found, path)
        return BuildReport(path, read_manifest(manifest_path(path)), reused=True)
    if announce is not None:
        announce(estimate_memory(parts.source.proto, settings, parts.plugin_workspace))
    if parts.plugin is not None:
        load_plugin(parts.trt.module, parts.plugin)
    built = build_network(
        parts.trt, parts.source, parts.profiles, settings,
        refittable=[weight.initializer for weight in parts.weights if weight.linear],
        timing_cache=read_timing_cache(timing_cache), progress=progress,
    )  # fmt: skip
    manifest = engine_manifest(parts, settings, key, engine_file(built.data), built.memory)
    write_engine(path, built.data, manifest)
    if timing_cache is not None and built.timing_cache:
        with atomic_write(timing_cache) as file:
            file.write(built.timing_cache)
    if cache is not None:
        cache.keep(key, path)
    return BuildReport(path, manifest, reused=False)


def adopt_engine(
    onnx_file: str | PathLike[str],
    path: str | PathLike[str],
    settings: BuildSettings | None = None,
    *,
    dense: bool = False,
) -> BuildReport:
    """Write the manifest of an engine that trtexec or Polygraphy built from `onnx_file`.

    TensorRT must be able to load the engine here, and its inputs and outputs must be the file's;
    that it was built from this file and with these settings cannot be checked.

    Raises:
        EngineError: TensorRT cannot load it, or it is of another model; else as `build_engine`.
    """
    from .load import check_profiles, deserialize, tensor_names

    path, settings = Path(path), settings or BuildSettings()
    parts = gather_parts(read_source(onnx_file, dense=dense), settings)
    if not path.is_file():
        raise EngineError(str(path), expected="an engine", actual="no such file")
    if parts.plugin is not None:
        load_plugin(parts.trt.module, parts.plugin)
    if not path.stat().st_size:
        raise EngineError(str(path), expected="an engine", actual="an empty file")
    # Mapped: an engine of tens of GB does not fit the memory a second time.
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        engine = deserialize(parts.trt, str(path), data)
        found = tensor_names(engine)
        content = engine_file(data)
    wanted = [entry.name for entry in (*parts.source.inputs, *parts.source.outputs)]
    if sorted(found) != sorted(wanted):
        raise EngineError(
            str(path), expected=f"the tensors {', '.join(wanted)}", actual=", ".join(found)[:200],
            remedy=f"name the ONNX file it was built from, not {parts.source.path}",
        )  # fmt: skip
    check_profiles(path, engine, len(settings.batches), _OTHER_OPTIONS)
    if settings.refit and not engine.refittable:
        raise EngineError(
            str(path),
            expected="an engine whose weights can be replaced",
            actual="one built without",
            remedy="build it with trtexec --refit, or leave out --refit",
        )
    key = engine_key(parts, settings)
    manifest = engine_manifest(parts, settings, key, content, BuilderMemory())
    write_manifest(path, manifest)
    return BuildReport(path, manifest, reused=True)


def _is_current(path: Path, key: str) -> bool:
    """Whether the engine at `path` is undamaged and of this key."""
    try:
        manifest = read_manifest(manifest_path(path))
    except ParoError:
        return False
    return manifest.key == key and is_undamaged(path, manifest)
