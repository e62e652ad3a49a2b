"""Builds an engine and its manifest from an ONNX file. Either both files are written or none."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, cast

from .. import __version__
from ..documents import canonical_json
from ..errors import ArgumentError, BackendUnavailableError, ParoError
from ..files import atomic_write
from ..onnx_file.source import OnnxSource, read_source
from ..onnx_file.tensors import TensorSpec
from .cache import EngineCache
from .cuda import Gpu, bindings_version, current_gpu
from .errors import EngineError
from .manifest import (
    Dtype,
    EngineFile,
    EngineManifest,
    EngineTensor,
    GpuRecord,
    MemoryRecord,
    OnnxRecord,
    PluginRecord,
    TensorRtRecord,
    is_undamaged,
    manifest_path,
    read_manifest,
)
from .memory import plugin_workspace
from .network import build_network, read_timing_cache
from .parser_input import check_plugin_dtypes
from .plugin_library import PluginFile, check_plugin_driver, find_plugin, load_plugin
from .profile import InputProfile, input_profiles, shape_range
from .progress import BuildProgress
from .settings import OLDEST_PLUGIN_TARGET, BuildSettings
from .tensorrt_api import Flavour, TensorRt, load_tensorrt


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


@dataclass(frozen=True)
class _Parts:
    """Everything that a build needs, found and checked before it begins."""

    source: OnnxSource
    profiles: tuple[InputProfile, ...]
    trt: TensorRt
    plugin: PluginFile | None
    gpu: Gpu
    cuda: str
    plugin_workspace: int | None


def build_engine(
    onnx_file: str | PathLike[str],
    path: str | PathLike[str],
    settings: BuildSettings | None = None,
    *,
    dense: bool = False,
    timing_cache: Path | None = None,
    cache: EngineCache | None = None,
    progress: BuildProgress | None = None,
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
    parts = _gather(read_source(onnx_file, dense=dense), settings)
    key = engine_key(parts, settings)
    if _is_current(path, key):
        return BuildReport(path, read_manifest(manifest_path(path)), reused=True)
    if cache is not None and (found := cache.find(key)) is not None:
        cache.copy(found, path)
        return BuildReport(path, read_manifest(manifest_path(path)), reused=True)
    if parts.plugin is not None:
        load_plugin(parts.trt.module, parts.plugin)
    built = build_network(
        parts.trt, parts.source, parts.profiles, settings,
        timing_cache=read_timing_cache(timing_cache), progress=progress,
    )  # fmt: skip
    memory = MemoryRecord(built.memory.weights, built.memory.activations, parts.plugin_workspace)
    data = memoryview(built.data)
    content = EngineFile(data.nbytes, hashlib.sha256(data).hexdigest())
    manifest = _manifest(parts, settings, key, content, memory)
    _write(path, built.data, manifest)
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
    from .load import deserialize, tensor_names

    path, settings = Path(path), settings or BuildSettings()
    parts = _gather(read_source(onnx_file, dense=dense), settings)
    if not path.is_file():
        raise EngineError(str(path), expected="an engine", actual="no such file")
    if parts.plugin is not None:
        load_plugin(parts.trt.module, parts.plugin)
    if not path.stat().st_size:
        raise EngineError(str(path), expected="an engine", actual="an empty file")
    # Mapped: an engine of tens of GB does not fit the memory a second time.
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        found = tensor_names(deserialize(parts.trt, str(path), data))
        content = EngineFile(len(data), hashlib.sha256(data).hexdigest())
    wanted = [entry.name for entry in (*parts.source.inputs, *parts.source.outputs)]
    if sorted(found) != sorted(wanted):
        raise EngineError(
            str(path), expected=f"the tensors {', '.join(wanted)}", actual=", ".join(found)[:200],
            remedy=f"name the ONNX file it was built from, not {parts.source.path}",
        )  # fmt: skip
    memory = MemoryRecord(None, None, parts.plugin_workspace)
    manifest = _manifest(parts, settings, engine_key(parts, settings), content, memory)
    _write_manifest(path, manifest)
    return BuildReport(path, manifest, reused=True)


def engine_key(parts: _Parts, settings: BuildSettings) -> str:
    """SHA-256 of all that an engine depends on: model, plan, plugin, GPU, TensorRT, settings."""
    document = {
        "onnx": parts.source.sha256,
        "plan": parts.source.info.plan_hash,
        "plugin": parts.plugin.sha256 if parts.plugin else None,
        "tensorrt": [parts.trt.flavour.value, parts.trt.version],
        "sm": parts.gpu.sm,
        "profiles": [dataclasses.asdict(entry) for entry in parts.profiles],
        "settings": {
            field.name: getattr(settings, field.name)
            for field in dataclasses.fields(settings)
            if field.name not in ("flavour", "sizes", "target")
        },
    }
    return hashlib.sha256(canonical_json(document)).hexdigest()


def _gather(source: OnnxSource, settings: BuildSettings) -> _Parts:
    profiles = input_profiles(source.inputs, settings)
    uses_plugin = bool(source.attention) and settings.uses_plugin
    if uses_plugin:
        check_plugin_dtypes(source)
    trt = load_tensorrt(settings.flavour)
    plugin = _plugin(settings) if uses_plugin else None
    here = settings.target is None
    gpu = current_gpu() if here else Gpu(0, "", settings.target or 0)
    if here and plugin is not None:
        check_plugin_driver(plugin)
    cuda = bindings_version() if here else ""
    workspace = plugin_workspace(plugin.path, source, settings) if plugin else None
    return _Parts(source, profiles, trt, plugin, gpu, cuda, workspace)


def _plugin(settings: BuildSettings) -> PluginFile:
    if settings.target is not None and settings.target < OLDEST_PLUGIN_TARGET:
        raise ArgumentError(
            "target",
            expected=f"SM {OLDEST_PLUGIN_TARGET} or later, which the plugin has kernels for",
            actual=str(settings.target),
            remedy="pass --sm of a later GPU, or --function-body",
        )
    try:
        return find_plugin()
    except BackendUnavailableError as error:
        if settings.flavour is Flavour.TENSORRT:
            raise
        raise BackendUnavailableError(
            error.subject,
            expected=error.expected,
            actual=error.actual,
            remedy=f"{error.remedy}; or compute the function in the file: --function-body",
        ) from error


def _is_current(path: Path, key: str) -> bool:
    """Whether the engine at `path` is undamaged and of this key."""
    try:
        manifest = read_manifest(manifest_path(path))
    except ParoError:
        return False
    return manifest.key == key and is_undamaged(path, manifest)


def _manifest(
    parts: _Parts, settings: BuildSettings, key: str, content: EngineFile, memory: MemoryRecord
) -> EngineManifest:
    plugin, source = parts.plugin, parts.source
    return EngineManifest(
        paro_engine=1,
        made_by=f"paro-trt {__version__}",
        key=key,
        engine=content,
        tensorrt=TensorRtRecord(
            parts.trt.flavour, parts.trt.version, parts.cuda, settings.weight_streaming
        ),
        gpu=GpuRecord(parts.gpu.sm, parts.gpu.name),
        onnx=OnnxRecord(
            source.path.name, source.sha256, len(source.attention), source.info.to_metadata()
        ),
        plugin=None if plugin is None else _recorded(plugin),
        inputs=_tensors(source.inputs, settings),
        outputs=_tensors(source.outputs, settings),
        memory=memory,
    )


def _recorded(plugin: PluginFile) -> PluginRecord:
    return PluginRecord(plugin.path.name, plugin.sha256, plugin.name, plugin.abi)


def _tensors(specs: Sequence[TensorSpec], settings: BuildSettings) -> tuple[EngineTensor, ...]:
    return tuple(
        # The parser has refused every other element type.
        EngineTensor(spec.name, cast(Dtype, spec.dtype), spec.shape, *shape_range(spec, settings))
        for spec in specs
    )


def _write(path: Path, data: Any, manifest: EngineManifest) -> None:
    """Engine first: a manifest never describes an engine that is not there."""
    manifest_path(path).unlink(missing_ok=True)
    with atomic_write(path) as file:
        file.write(memoryview(data))
    _write_manifest(path, manifest)


def _write_manifest(path: Path, manifest: EngineManifest) -> None:
    with atomic_write(manifest_path(path)) as file:
        file.write(json.dumps(manifest.to_json(), indent=1).encode())
