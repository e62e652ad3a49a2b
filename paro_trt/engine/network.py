"""Builds a network with TensorRT's Python interface.

The same calls, found by name, work with TensorRT 10.x, 11.x and TensorRT for RTX.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BackendUnavailableError
from ..onnx_file.source import OnnxSource
from .errors import BuildError
from .interrupt import StoppableProgress
from .logger import LogKeeper, make_logger
from .memory import BuilderMemory, builder_memory
from .parser_input import for_function_body, for_plugin
from .profile import InputProfile
from .progress import BuildProgress, make_monitor
from .settings import BuildSettings
from .tensorrt_api import TensorRt

_STRONGLY_TYPED, _REFIT = "STRONGLY_TYPED", "REFIT_INDIVIDUAL"


@dataclass(frozen=True)
class BuiltEngine:
    """The result of a build.

    Args:
        data: the serialized engine, a buffer.
        layers: of the network that was parsed.
        timing_cache: to keep for the next build; None where TensorRT has none.
        memory: what the log says of the engine.
    """

    data: Any
    layers: int
    timing_cache: bytes | None
    memory: BuilderMemory


def build_network(
    trt: TensorRt,
    source: OnnxSource,
    profiles: Sequence[Sequence[InputProfile]],
    settings: BuildSettings,
    *,
    refittable: Sequence[str] = (),
    timing_cache: bytes = b"",
    progress: BuildProgress | None = None,
) -> BuiltEngine:
    """Parse a checked file and build its engine. The plugin, if used, is loaded beforehand.

    Args:
        trt: the TensorRT of settings.flavour.
        source: the file.
        profiles: shapes of the inputs with free sizes, for each optimization profile.
        settings: how to build.
        refittable: names of the weights that can be replaced in the engine.
        timing_cache: of an earlier build; empty for none.
        progress: receives the progress; Ctrl-C stops it between two steps.

    Raises:
        BackendUnavailableError: TensorRT does not start here.
        BuildError: TensorRT refuses the model, a setting or the build, with its reason.
        KeyboardInterrupt: the build was stopped.
    """
    keeper = LogKeeper()
    logger = make_logger(trt.module, keeper)
    builder = trt.module.Builder(logger)
    if settings.target is None:  # else it builds for a GPU that is not here, and may say so
        keeper.check_start(f"{trt.flavour.label} {trt.version}", builder)
    flag = getattr(trt.module.NetworkDefinitionCreationFlag, _STRONGLY_TYPED)
    network = builder.create_network(1 << int(flag))
    # The parser owns what the network refers to: it must live until the engine is built.
    parser = _parse(trt, network, logger, source, settings, keeper)
    if not settings.function_body:
        _check_attention(trt, network, source)
    config = builder.create_builder_config()
    _configure(trt, config, settings)
    _mark_refittable(trt, network, config, source, refittable, keeper)
    for profile in profiles:
        _add_profile(builder, config, profile, keeper)
    cache = _attach_cache(config, timing_cache)
    watched = StoppableProgress(progress)
    config.progress_monitor = make_monitor(trt.module, watched)
    with watched.catching():
        data = builder.build_serialized_network(network, config)
    if data is None:
        raise BuildError(
            str(source.path),
            expected=f"a model that {trt.flavour.label} {trt.version} can build",
            actual=keeper.explain("no engine and no reason"),
            remedy="see docs/tensorrt.md, troubleshooting by message",
        )
    memory = builder_memory(keeper.totals)
    built = BuiltEngine(data, network.num_layers, _serialized(cache), memory)
    del parser
    return built


def _parse(
    trt: TensorRt, network: Any, logger: Any, source: OnnxSource, settings: BuildSettings,
    keeper: LogKeeper,
) -> Any:  # fmt: skip
    model = (
        for_function_body(source)
        if settings.function_body
        else for_plugin(source, settings.max_workspace)
    )
    parser = trt.module.OnnxParser(network, logger)
    if not parser.parse(model, path=str(source.path)):
        reasons = [parser.get_error(index) for index in range(parser.num_errors)]
        first = reasons[0] if reasons else None
        raise BuildError(
            f"{source.path}: {first.node_name()}" if first and first.node_name() else
            str(source.path),
            expected=f"a model that the parser of {trt.flavour.label} {trt.version} reads",
            actual=" ".join(first.desc().split())[:300] if first
            else keeper.explain("no reason given"),
            remedy="see docs/tensorrt.md, troubleshooting by message",
        )  # fmt: skip
    return parser


def _check_attention(trt: TensorRt, network: Any, source: OnnxSource) -> None:
    """Refuse a network that computes PAROAttention by anything but the plugin."""
    kinds = (network.get_layer(index).type for index in range(network.num_layers))
    found = sum(kind == trt.module.LayerType.PLUGIN_V3 for kind in kinds)
    if found != len(source.attention):
        raise BuildError(
            str(source.path),
            expected=f"{len(source.attention)} layers computed by the plugin",
            actual=f"{found} after parsing",
            remedy="load no other plugin library; see docs/tensorrt.md",
        )


def _configure(trt: TensorRt, config: Any, settings: BuildSettings) -> None:
    names = trt.module
    if settings.builder_level is not None:
        config.builder_optimization_level = settings.builder_level
    if settings.max_aux_streams is not None:
        config.max_aux_streams = settings.max_aux_streams
    if settings.workspace is not None:
        config.set_memory_pool_limit(names.MemoryPoolType.WORKSPACE, settings.workspace)
    if settings.shared_memory is not None:
        pool = names.MemoryPoolType.TACTIC_SHARED_MEMORY
        config.set_memory_pool_limit(pool, settings.shared_memory)
    if settings.weight_streaming:
        config.set_flag(names.BuilderFlag.WEIGHT_STREAMING)
    if settings.profiling:
        config.profiling_verbosity = names.ProfilingVerbosity.DETAILED
    if settings.target is not None:
        _set_target(trt, config, settings.target)


def _set_target(trt: TensorRt, config: Any, target: int) -> None:
    capability = getattr(trt.module.ComputeCapability, f"SM{target}", None)
    if capability is None:
        raise BackendUnavailableError(
            "target",
            expected=f"a GPU that {trt.flavour.label} {trt.version} builds for",
            actual=f"SM {target}",
        )
    config.num_compute_capabilities = 1
    config.set_compute_capability(capability, 0)


def _mark_refittable(
    trt: TensorRt, network: Any, config: Any, source: OnnxSource, names: Sequence[str],
    keeper: LogKeeper,
) -> None:  # fmt: skip
    """Mark single weights: with REFIT alone every constant would be one that may change."""
    if not names:
        return
    flag = getattr(trt.module.BuilderFlag, _REFIT, None)
    if flag is None:
        raise BackendUnavailableError(
            f"{trt.flavour.label} {trt.version}",
            expected=f"a release that can mark single weights for refitting ({_REFIT})",
            actual="one that cannot",
            remedy=f"pip install 'tensorrt>={trt.major}.16', or build without --refit",
        )
    config.set_flag(flag)
    for name in names:
        if not network.mark_weights_refittable(name):
            raise BuildError(
                f"{source.path}: {name}",
                expected=f"a weight that {trt.flavour.label} {trt.version} can refit",
                actual=keeper.explain("a refusal without a reason"),
                remedy="build without --refit",
            )


def _add_profile(
    builder: Any, config: Any, shapes: Sequence[InputProfile], keeper: LogKeeper
) -> None:
    profile = builder.create_optimization_profile()
    for entry in shapes:
        profile.set_shape(entry.name, entry.min, entry.opt, entry.max)
    if config.add_optimization_profile(profile) < 0:
        raise BuildError(
            "optimization profile",
            expected="shapes that TensorRT accepts",
            actual=keeper.explain("a refusal without a reason"),
        )


def _attach_cache(config: Any, content: bytes) -> Any:
    """The timing cache of this build. A cache of another GPU or release is not used."""
    cache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def _serialized(cache: Any) -> bytes | None:
    memory = cache.serialize() if cache is not None else None
    return None if memory is None else bytes(memory)


def read_timing_cache(path: Path | None) -> bytes:
    """Content of a timing cache file, or b"" if there is none."""
    return path.read_bytes() if path is not None and path.is_file() else b""
