"""A stub of TensorRT's Python module that has the names of one real release and no other.

Names and parameters are those that `surface.py` read off the real bindings. What an engine
computes, ONNX Runtime computes, from the ONNX file that was parsed, on the addresses given.
"""

from __future__ import annotations

import ctypes
import json
from types import ModuleType, SimpleNamespace
from typing import Any

import onnx

from .guarded import Choice, Guarded
from .stub_cuda import StubCuda
from .stub_runtime import Runtime
from .surface import FILE

SURFACE: dict[str, dict[str, dict[str, Any]]] = json.loads(FILE.read_text())
FIELDS = (
    "scale", "block_q", "block_k", "qk_bits", "pv_bits", "pool_dropped", "max_workspace_mib",
)  # fmt: skip


class StubTensorRt:
    """What a stub module and its objects share.

    Args:
        version: of the release whose names it has.
        cuda: the stub for CUDA.
    """

    def __init__(self, version: str, cuda: StubCuda) -> None:
        self.version = version
        self.cuda = cuda
        self.surface = SURFACE[version]
        self.registry = IPluginRegistry(self)
        self.refuse_start = ""
        self.refuse_build = ""
        self.refuse_load = ""
        self.function_first = False
        self.config: Any = None
        self.parsed = b""
        self.contexts = 0
        self.creators: list[Any] = []
        self.plugin_fields = FIELDS
        self.libraries: list[str] = []
        """Plugin libraries loaded, in order."""
        self.flags: list[str] = []
        self.pools: dict[str, int] = {}
        self.profile_shapes: dict[str, Any] = {}
        self.cache_content: bytes | None = None
        """As of the last configuration, like the three above."""
        self.engine: Any = None
        self.lent_memory: tuple[int, int] | None = None
        self.executions = 0

    def add_creator(self, version: str) -> None:
        """Register a creator of PAROAttention, as a library does when it is loaded."""
        fields = [SimpleNamespace(name=name) for name in self.plugin_fields]
        self.creators.append(
            SimpleNamespace(name="PAROAttention", plugin_version=version, field_names=fields)
        )

    def module(self) -> ModuleType:
        """The module to import."""
        made = ModuleType("tensorrt")
        made.__version__ = self.version
        for name, members in self.surface.items():
            if members and all(isinstance(value, int) for value in members.values()):
                setattr(made, name, Choice(name, members))
        severity = made.Severity
        made.ILogger = type("ILogger", (Subclassed,), {"Severity": severity})
        made.IProgressMonitor = type("IProgressMonitor", (Subclassed,), {})
        made.get_plugin_registry = lambda: self.registry
        made.Builder = lambda logger: Builder(self, logger, made)
        made.OnnxParser = lambda network, logger: OnnxParser(self, network, logger, made)
        made.Runtime = lambda logger: Runtime(self, logger, made)
        self.names = made
        return made


class Subclassed:
    """A class that Python code derives from; its constructor must be called, as pybind asks."""

    def __init__(self) -> None:
        self._constructed = True


class IPluginRegistry(Guarded):
    @property
    def all_creators(self) -> list[Any]:
        return self._trt.creators

    def get_creator(self, type: str, version: str, plugin_namespace: str = "") -> Any:
        for entry in self._trt.creators:
            if (entry.name, entry.plugin_version) == (type, version):
                return entry if not plugin_namespace else None
        return None

    def load_library(self, plugin_path: str) -> None:
        ctypes.CDLL(plugin_path)
        self._trt.libraries.append(plugin_path)
        self._trt.add_creator("1")


class IOptimizationProfile(Guarded):
    def __init__(self, trt: StubTensorRt) -> None:
        super().__init__(trt)
        self._shapes: dict[str, Any] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        self._shapes[input] = (tuple(min), tuple(opt), tuple(max))
        self._trt.profile_shapes = dict(self._shapes)


class ITimingCache(Guarded):
    def __init__(self, trt: StubTensorRt, content: bytes) -> None:
        super().__init__(trt)
        self._content = content

    def serialize(self) -> bytes:
        return b"cache of " + self._trt.version.encode()


class IBuilderConfig(Guarded):
    def __init__(self, trt: StubTensorRt) -> None:
        super().__init__(trt)
        trt.flags, trt.pools, trt.cache_content = [], {}, None
        self._profiles: list[IOptimizationProfile] = []

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
        return ITimingCache(self._trt, bytes(serialized_timing_cache))

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        fits = cache._content in (b"", b"cache of " + self._trt.version.encode())
        if fits or ignore_mismatch:
            self._trt.cache_content = cache._content
        return fits

    def set_flag(self, flag: Any) -> None:
        self._trt.flags.append(flag.name)

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self._trt.pools[pool.name] = pool_size


class INetworkDefinition(Guarded):
    def __init__(self, trt: StubTensorRt) -> None:
        super().__init__(trt)
        self._layers: list[Any] = []
        self._path = ""
        self._inputs: dict[str, list[int]] = {}

    @property
    def num_layers(self) -> int:
        return len(self._layers)

    def get_layer(self, index: int) -> Any:
        return self._layers[index]


class ParserError(Guarded):
    def __init__(self, trt: StubTensorRt, node: str, text: str) -> None:
        super().__init__(trt)
        self._node, self._text = node, text

    def node_name(self) -> str:
        return self._node

    def desc(self) -> str:
        return self._text


class OnnxParser(Guarded):
    def __init__(self, trt: StubTensorRt, network: Any, logger: Any, names: Any) -> None:
        super().__init__(trt)
        assert logger._constructed
        self._network, self._names, self._errors = network, names, []

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]

    def parse(self, model: bytes, path: str | None = None) -> bool:
        proto = onnx.load_from_string(model)
        self._trt.parsed = model
        self._network._path = path
        self._network._inputs = {
            entry.name: [size.dim_value or -1 for size in entry.type.tensor_type.shape.dim]
            for entry in proto.graph.input
        }
        functions = {(entry.domain, entry.name) for entry in proto.functions}
        known = self._trt.registry.get_creator("PAROAttention", "1")
        for node in proto.graph.node:
            kind = None
            if node.domain:
                plugin = known and not self._trt.function_first
                if not plugin and (node.domain, node.op_type) not in functions:
                    self._errors = [ParserError(self._trt, node.name, "Plugin not found")]
                    return False
                kind = self._names.LayerType.PLUGIN_V3 if plugin else None
            self._network._layers.append(SimpleNamespace(type=kind))
        return True


class Builder(Guarded):
    def __init__(self, trt: StubTensorRt, logger: Any, names: Any) -> None:
        super().__init__(trt)
        assert logger._constructed
        self._logger, self._names = logger, names
        if trt.refuse_start:
            logger.log(names.Severity.ERROR, trt.refuse_start)

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        wanted = self._trt.surface["NetworkDefinitionCreationFlag"]["STRONGLY_TYPED"]
        assert flags == 1 << wanted, "not strongly typed in this release's numbers"
        return INetworkDefinition(self._trt)

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig(self._trt)

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile(self._trt)

    def build_serialized_network(self, network: Any, config: Any) -> bytes | None:
        self._trt.config = config
        shapes = config._profiles[0]._shapes if config._profiles else {}
        for name, sizes in network._inputs.items():
            if -1 in sizes and name not in shapes:
                return self._refuse(f"{name} has no shapes in the profile")
        if self._trt.refuse_build:
            return self._refuse(self._trt.refuse_build)
        monitor = object.__getattribute__(config, "__dict__").get("progress_monitor")
        if monitor is not None and not self._report(monitor):
            return None
        content = {"version": self._trt.version, "path": network._path}
        return json.dumps(content).encode()

    def _refuse(self, reason: str) -> None:
        self._logger.log(self._names.Severity.ERROR, reason)

    def _report(self, monitor: Any) -> bool:
        assert monitor._constructed
        monitor.phase_start("Building", None, 3)
        monitor.phase_start("Timing", "Building", 2)
        done = [monitor.step_complete("Timing", 0), monitor.step_complete("Timing", 1)]
        monitor.phase_finish("Timing")
        done += [monitor.step_complete("Building", step) for step in range(3)]
        monitor.phase_finish("Building")
        return all(done)
