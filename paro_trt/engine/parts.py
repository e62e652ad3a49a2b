"""Everything that a build needs, found and checked before it begins."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass

from ..documents import canonical_json
from ..errors import ArgumentError, BackendUnavailableError
from ..onnx_file.source import OnnxSource
from ..onnx_file.weights import NamedWeight, named_weights
from .cuda import Gpu, bindings_version, current_gpu
from .memory import plugin_workspace
from .parser_input import check_plugin_dtypes
from .plugin_library import PluginFile, check_plugin_driver, find_plugin
from .profile import InputProfile, optimization_profiles
from .settings import OLDEST_PLUGIN_TARGET, BuildSettings
from .tensorrt_api import Flavour, TensorRt, load_tensorrt


@dataclass(frozen=True)
class BuildParts:
    """Everything that a build needs.

    Args:
        source: the exported file.
        profiles: the optimization profiles; () where the file has no free size.
        trt: builds.
        plugin: computes PAROAttention; None where the function in the file does, or there is none.
        gpu: that is built for; index 0 and no name where it is not in the machine.
        cuda: version of CUDA; "" where the GPU is not in the machine.
        plugin_workspace: bytes, of the layer that needs most; None without the plugin.
        weights: of the model, by name; () unless some shall be replaceable.
    """

    source: OnnxSource
    profiles: tuple[tuple[InputProfile, ...], ...]
    trt: TensorRt
    plugin: PluginFile | None
    gpu: Gpu
    cuda: str
    plugin_workspace: int | None
    weights: tuple[NamedWeight, ...]


def engine_key(parts: BuildParts, settings: BuildSettings) -> str:
    """SHA-256 of all that an engine depends on: model, plan, plugin, GPU, TensorRT, settings."""
    document = {
        "onnx": parts.source.sha256,
        "plan": parts.source.info.plan_hash,
        "plugin": parts.plugin.sha256 if parts.plugin else None,
        "tensorrt": [parts.trt.flavour.value, parts.trt.version],
        "sm": parts.gpu.sm,
        "profiles": [[dataclasses.asdict(entry) for entry in of] for of in parts.profiles],
        "settings": {
            field.name: getattr(settings, field.name)
            for field in dataclasses.fields(settings)
            if field.name not in ("flavour", "sizes", "target")
        },
    }
    return hashlib.sha256(canonical_json(document)).hexdigest()


def gather_parts(source: OnnxSource, settings: BuildSettings) -> BuildParts:
    """Find and check everything that a build needs; errors are those of `build_engine`."""
    profiles = optimization_profiles(source.inputs, settings)
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
    workspace = None
    if plugin is not None:
        workspace = plugin_workspace(plugin.path, source.path, source.proto, settings)
    if settings.refit and not here:
        _require_gpu(settings)
    weights = _refittable(source) if settings.refit else ()
    return BuildParts(source, profiles, trt, plugin, gpu, cuda, workspace, weights)


def _require_gpu(settings: BuildSettings) -> None:
    """TensorRT for RTX asks the driver when it compiles a refittable engine [1.7.1]."""
    try:
        current_gpu()
    except BackendUnavailableError as error:
        raise BackendUnavailableError(
            "refit",
            expected=f"a GPU in this machine, which {settings.flavour.label} needs for it",
            actual=error.actual,
            remedy="build on a machine with an NVIDIA GPU, or build without --refit",
        ) from error


def _refittable(source: OnnxSource) -> tuple[NamedWeight, ...]:
    weights = named_weights(source.proto)
    if not any(weight.linear for weight in weights):
        raise ArgumentError(
            "refit",
            expected="weights of linear layers by their names in the model",
            actual=f"none in {source.path}",
            remedy="export the model again, or build without --refit",
        )
    return weights


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
