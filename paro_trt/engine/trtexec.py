"""The trtexec command that builds the same engine as `build_engine`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from .profile import InputProfile, Shape
from .settings import BuildSettings

MEBIBYTE = 1 << 20


def trtexec_command(
    onnx_file: Path,
    engine: Path,
    profiles: Sequence[Sequence[InputProfile]],
    settings: BuildSettings,
    *,
    plugin: Path | None,
    timing_cache: Path | None = None,
) -> list[str]:
    """The words of the command.

    Args:
        onnx_file: the exported model; with TensorRT before 10.7 export it with `--body none`,
            for there a function in the file goes before the plugin.
        engine: to write.
        profiles: shapes of the inputs with free sizes, for each optimization profile.
        settings: of a build by TensorRT.
        plugin: its library; None for a model without PAROAttention.
        timing_cache: read and written.
    """
    words = ["trtexec", f"--onnx={onnx_file}", f"--saveEngine={engine}", "--stronglyTyped"]
    words += ["--skipInference"]
    if plugin is not None:
        words.append(f"--dynamicPlugins={plugin}")
    for index, profile in enumerate(profiles):
        # trtexec takes the three options that follow for this profile's.
        words += [f"--profile={index}"] if len(profiles) > 1 else []
        for bound in ("min", "opt", "max"):
            shapes = [f"{entry.name}:{_times(getattr(entry, bound))}" for entry in profile]
            words.append(f"--{bound}Shapes={','.join(shapes)}")
    if settings.builder_level is not None:
        words.append(f"--builderOptimizationLevel={settings.builder_level}")
    if settings.max_aux_streams is not None:
        words.append(f"--maxAuxStreams={settings.max_aux_streams}")
    pools = {"workspace": settings.workspace, "tacticSharedMem": settings.shared_memory}
    limits = [f"{pool}:{_mebibytes(size)}" for pool, size in pools.items() if size is not None]
    if limits:
        words.append(f"--memPoolSize={','.join(limits)}")
    if settings.weight_streaming:
        words.append("--allowWeightStreaming")
    if settings.refit:
        words.append("--refit")
    if settings.profiling:
        words.append("--profilingVerbosity=detailed")
    if timing_cache is not None:
        words.append(f"--timingCacheFile={timing_cache}")
    return words


def as_line(words: list[str]) -> str:
    """The command for a shell, with one option per line."""
    return " \\\n  ".join(shlex.quote(word) for word in words)


def _times(shape: Shape) -> str:
    return "x".join(map(str, shape))


def _mebibytes(size: int) -> str:
    return f"{size / MEBIBYTE:.12g}"


def plugin_for_trtexec() -> Path:
    """The plugin's path, or a placeholder name if this machine has no plugin."""
    from ..errors import BackendUnavailableError
    from .plugin_library import LIBRARY, find_plugin

    try:
        return find_plugin().path
    except BackendUnavailableError:
        return Path(f"libparo_{LIBRARY}.so")
