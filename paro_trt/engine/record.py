"""The manifest of an engine that was built or adopted."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, cast

from numpy.typing import NDArray

from .. import __version__
from ..onnx_file.read import Constants
from ..onnx_file.tensors import TensorSpec
from .manifest import (
    BatchProfile,
    Dtype,
    EngineFile,
    EngineManifest,
    EngineTensor,
    GpuRecord,
    MemoryRecord,
    OnnxRecord,
    PluginRecord,
    RefitRecord,
    RefitWeight,
    TensorRtRecord,
)
from .memory import BuilderMemory
from .parts import BuildParts
from .plugin_library import PluginFile
from .profile import shape_range
from .settings import BuildSettings


def weight_digest(values: NDArray[Any]) -> str:
    """First 16 digits of the SHA-256 of a weight, as `RefitRecord.fixed` has them."""
    return hashlib.sha256(values.tobytes()).hexdigest()[:16]


def engine_manifest(
    parts: BuildParts, settings: BuildSettings, key: str, content: EngineFile, memory: BuilderMemory
) -> EngineManifest:
    """The manifest of an engine.

    Args:
        parts: that it was built from.
        settings: that it was built with.
        key: as `engine_key`.
        content: size and hash of the engine file.
        memory: what the builder said.
    """
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
        memory=MemoryRecord(memory.weights, memory.largest_activations, parts.plugin_workspace),
        profiles=_profiles(settings, memory),
        refit=_refit_record(parts) if parts.weights else None,
    )


def _profiles(settings: BuildSettings, memory: BuilderMemory) -> tuple[BatchProfile, ...]:
    batches, sizes = settings.batches, memory.activations
    if len(batches) == 1:
        return ()
    known = sizes if len(sizes) == len(batches) else (None,) * len(batches)
    return tuple(
        BatchProfile(batch.min, batch.opt, batch.max, size)
        for batch, size in zip(batches, known, strict=True)
    )


def _refit_record(parts: BuildParts) -> RefitRecord:
    constants = Constants(parts.source.path, parts.source.proto)
    fixed = {}
    for weight in parts.weights:
        if not weight.linear:
            values = constants.get(weight.initializer)
            assert values is not None
            fixed[weight.name] = weight_digest(values.T if weight.transposed else values)
    return RefitRecord(
        weights=tuple(
            RefitWeight(weight.name, cast(Dtype, weight.dtype), weight.shape, weight.transposed)
            for weight in parts.weights
            if weight.linear
        ),
        fixed=fixed,
    )


def _recorded(plugin: PluginFile) -> PluginRecord:
    return PluginRecord(plugin.path.name, plugin.sha256, plugin.name, plugin.abi)


def _tensors(specs: Sequence[TensorSpec], settings: BuildSettings) -> tuple[EngineTensor, ...]:
    return tuple(
        # The parser has refused every other element type.
        EngineTensor(spec.name, cast(Dtype, spec.dtype), spec.shape, *shape_range(spec, settings))
        for spec in specs
    )
