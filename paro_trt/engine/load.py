"""Loads an engine file. Its manifest is checked before anything is loaded."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .cuda import Gpu, current_gpu
from .errors import EngineError
from .file_hash import engine_sha256
from .logger import LogKeeper, make_logger
from .manifest import EngineManifest
from .manifest_file import found_manifest, read_manifest
from .plugin_library import PluginFile, check_plugin_driver, find_plugin, load_plugin
from .tensorrt_api import TensorRt, load_tensorrt, same_release

_REBUILD = "build it again here: paro-trt build"


@dataclass(frozen=True)
class LoadedEngine:
    """TensorRT's engine, its manifest, and the TensorRT and GPU that run it."""

    engine: Any
    manifest: EngineManifest
    trt: TensorRt


def check_engine_file(path: Path, plan_hash: str | None = None) -> EngineManifest:
    """The manifest of an engine whose file has the size that it says; nothing of it is read.

    Args:
        path: the engine; its manifest is next to it.
        plan_hash: the plan it must have been built with; None for any.

    Raises:
        EngineError: a file is missing, or does not match.
    """
    if not path.is_file():
        raise EngineError(
            str(path),
            expected="an engine",
            actual="a directory" if path.is_dir() else "no such file",
            remedy="paro-trt build makes one from an exported model",
        )
    manifest = read_manifest(found_manifest(path))
    _check_plan(path, manifest, plan_hash)
    if not manifest.engine.bytes == path.stat().st_size:
        raise _damaged(path, manifest, f"{path.stat().st_size} bytes")
    return manifest


def check_machine(path: Path, manifest: EngineManifest) -> tuple[TensorRt, PluginFile | None]:
    """The TensorRT and the plugin that run an engine here, on a GPU that it was built for.

    Raises:
        EngineError: one of them is not what the engine was built with.
        BackendUnavailableError: one of them is missing.
    """
    trt = load_tensorrt(manifest.tensorrt.flavour)
    _check_tensorrt(path, manifest, trt)
    _check_gpu(path, manifest, current_gpu())
    if manifest.plugin is None:
        return trt, None
    plugin = find_plugin()
    check_plugin_driver(plugin)
    _check_plugin(path, manifest, plugin)
    return trt, plugin


def load_engine(
    path: Path, *, plan_hash: str | None = None, check_hash: bool = True
) -> LoadedEngine:
    """Load an engine whose manifest says that it was built for this machine.

    In this order, so that nothing is loaded in vain: manifest, engine file, plan, TensorRT, GPU,
    plugin; then the plugin is loaded and the engine deserialized.

    Args:
        path: the engine; its manifest is next to it.
        plan_hash: the plan it must have been built with; None for any.
        check_hash: compare the file's SHA-256, which reads all of it, once in a process; False
            compares its size alone, for files whose storage is trusted.

    Raises:
        EngineError: any of them does not match, with the remedy.
        BackendUnavailableError: TensorRT, CUDA, a GPU or the plugin is missing.
    """
    manifest = check_engine_file(path, plan_hash)
    if check_hash and (digest := engine_sha256(path)) != manifest.engine.sha256:
        raise _damaged(path, manifest, f"SHA-256 {digest[:16]}")
    trt, plugin = check_machine(path, manifest)
    if plugin is not None:
        load_plugin(trt.module, plugin)
    # Mapped: an engine of tens of GB does not fit the memory a second time.
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        engine = deserialize(trt, str(path), data)
    _check_tensors(path, manifest, engine)
    check_profiles(path, engine, max(1, len(manifest.profiles)), _REBUILD)
    return LoadedEngine(engine, manifest, trt)


def deserialize(trt: TensorRt, name: str, data: Any) -> Any:
    """TensorRT's engine of a buffer.

    Raises:
        BackendUnavailableError: TensorRT does not start here.
        EngineError: TensorRT refuses it, with its reason.
    """
    keeper = LogKeeper()
    runtime = trt.module.Runtime(make_logger(trt.module, keeper))
    keeper.check_start(f"{trt.flavour.label} {trt.version}", runtime)
    engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        raise EngineError(
            name,
            expected=f"an engine that {trt.flavour.label} {trt.version} can load",
            actual=keeper.explain("a refusal without a reason"),
            remedy=_REBUILD,
        )
    return engine


def check_profiles(path: Path, engine: Any, expected: int, remedy: str) -> None:
    """Raise EngineError unless an engine has so many optimization profiles."""
    found = int(engine.num_optimization_profiles)
    if found != expected:
        raise EngineError(
            f"{path}: optimization profiles", expected=str(expected), actual=str(found),
            remedy=remedy,
        )  # fmt: skip


def tensor_names(engine: Any) -> list[str]:
    """Names of an engine's inputs and outputs."""
    return [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]


def _damaged(path: Path, manifest: EngineManifest, actual: str) -> EngineError:
    expected = f"{manifest.engine.bytes} bytes, SHA-256 {manifest.engine.sha256[:16]}"
    return EngineError(
        str(path),
        expected=f"{expected}, as its manifest says",
        actual=actual,
        remedy=f"the file is damaged or of another build; {_REBUILD}",
    )


def _check_plan(path: Path, manifest: EngineManifest, plan_hash: str | None) -> None:
    built = manifest.info.plan_hash
    if plan_hash is not None and built != plan_hash:
        raise EngineError(
            f"{path}: plan",
            expected=plan_hash[:16],
            actual=built[:16] if built else "none: a dense engine",
            remedy="export and build with this plan",
        )


def _check_tensorrt(path: Path, manifest: EngineManifest, trt: TensorRt) -> None:
    if not same_release(manifest.tensorrt.version, trt.version):
        raise EngineError(
            f"{path}: {trt.flavour.label}",
            expected=f"{manifest.tensorrt.version}, which it was built with",
            actual=trt.version,
            remedy=f"{_REBUILD}, or install {trt.flavour.value}=={manifest.tensorrt.version}",
        )


def _check_gpu(path: Path, manifest: EngineManifest, gpu: Gpu) -> None:
    if manifest.gpu.sm != gpu.sm:
        built = f"SM {manifest.gpu.sm}" + (f" ({manifest.gpu.name})" if manifest.gpu.name else "")
        raise EngineError(
            f"{path}: GPU",
            expected=f"{built}, which it was built for",
            actual=f"SM {gpu.sm} ({gpu.name})",
            remedy="build it on this GPU: paro-trt build",
        )


def _check_plugin(path: Path, manifest: EngineManifest, plugin: PluginFile) -> None:
    built = manifest.plugin
    if built is not None and built.sha256 != plugin.sha256:
        raise EngineError(
            f"{path}: plugin",
            expected=f"{built.name}, SHA-256 {built.sha256[:16]}, which it was built with",
            actual=f"{plugin.name}, SHA-256 {plugin.sha256[:16]} ({plugin.path})",
            remedy=f"{_REBUILD}, or set PARO_LIBRARY_DIR to the directory of that plugin",
        )


def _check_tensors(path: Path, manifest: EngineManifest, engine: Any) -> None:
    wanted = sorted(entry.name for entry in (*manifest.inputs, *manifest.outputs))
    found = sorted(tensor_names(engine))
    if wanted != found:
        raise EngineError(
            f"{path}: tensors",
            expected=", ".join(wanted),
            actual=", ".join(found)[:200],
            remedy=f"engine and manifest do not belong together; {_REBUILD}",
        )
