"""A stub of TensorRT's Python module that has the names of one real release and no other.

Names and parameters are those that `surface.py` read off the real bindings. What an engine
computes, ONNX Runtime computes, from the ONNX file that was parsed, on the addresses given.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import threading
import time
import weakref
from types import ModuleType, SimpleNamespace
from typing import Any

import onnx

from .guarded import Choice, Guarded
from .stub_cuda import StubCuda
from .stub_refit import Refitter, Weights
from .stub_runtime import ICudaEngine, Runtime
from .surface import FILE

SURFACE: dict[str, dict[str, dict[str, Any]]] = json.loads(FILE.read_text())
FIELDS = (
    "scale", "block_q", "block_k", "qk_bits", "pv_bits", "pool_dropped", "fine_summaries",
    "mean_correction", "routing", "smoothing", "max_workspace_mib",
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
        self.refuse_capture = False
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
        self.loaded: weakref.WeakSet[ICudaEngine] = weakref.WeakSet()
        """Engines that take memory of the GPU."""
        self.automatic_budget = 400
        self.report_from_thread = False
        """The builder reports its progress from another thread than the one that waits for it."""
        self.interrupt = False
        """Ctrl-C is pressed before the first step."""
        self.steps = 0
        self.coupled: set[str] = set()
        """Weights that an engine keeps as one: to replace one of them takes all of them."""
        self.refits = 0
        self.lent_memory: tuple[int, int] | None = None
        self.executions = 0

    def add_creator(self, version: str) -> None:
        """Register a creator of PAROAttention, as a library does when it is loaded."""
        fields = [SimpleNamespace(name=name) for name in self.plugin_fields]
        self.creators.append(
            SimpleNamespace(name="PAROAttention", plugin_version=version, field_names=fields)
        )

    @property
    def engine(self) -> Any:
        """The engine that is loaded."""
        (found,) = self.loaded
        return found

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
        made.Refitter = lambda engine, logger: Refitter(self, engine, logger, made)
        made.Weights = lambda type, ptr, count: Weights(self, type, ptr, count)
        self.names = made
        return made


def press_ctrl_c() -> None:
    """As a terminal does. The signal comes to whichever thread the system chooses, in its time."""
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.1)


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
        self._trt.add_creator("2")


class IOptimizationProfile(Guarded):
    def __init__(self, trt: StubTensorRt) -> None:
        super().__init__(trt)
        self._shapes: dict[str, Any] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        ordered = all(a <= b <= c for a, b, c in zip(min, opt, max, strict=True))
        assert ordered, f"{input}: {min}, {opt}, {max} are in no order"
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
        self._logger: Any = None
        self._names: Any = None
        self._weights: dict[str, Any] = {}
        self._refittable: list[str] = []

    def mark_weights_refittable(self, name: str) -> bool:
        if name in self._weights:
            self._refittable.append(name)
            return True
        self._logger.log(self._names.Severity.ERROR, f"There are no weights named {name}.")
        return False

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
        self._logger = logger

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]

    def parse(self, model: bytes, path: str | None = None) -> bool:
        proto = onnx.load_from_string(model)
        self._trt.parsed = model
        self._network._path = path
        self._network._logger, self._network._names = self._logger, self._names
        self._network._weights = {entry.name: entry for entry in proto.graph.initializer}
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
        profiles = [profile._shapes for profile in config._profiles]
        for name, sizes in network._inputs.items():
            if -1 in sizes and not (profiles and all(name in shapes for shapes in profiles)):
                return self._refuse(f"{name} has no shapes in a profile")
        # A mark has no effect without the flag, and the flag none without a mark.
        assert bool(network._refittable) is ("REFIT_INDIVIDUAL" in self._trt.flags)
        if self._trt.refuse_build:
            return self._refuse(self._trt.refuse_build)
        monitor = object.__getattribute__(config, "__dict__").get("progress_monitor")
        report = self._report_from_thread if self._trt.report_from_thread else self._report
        if monitor is not None and not report(monitor):
            return None
        content = {
            "version": self._trt.version, "path": network._path, "profiles": profiles,
            "refittable": network._refittable, "streams": "WEIGHT_STREAMING" in self._trt.flags,
            "weights": {},
        }  # fmt: skip
        return json.dumps(content).encode()

    def _refuse(self, reason: str) -> None:
        self._logger.log(self._names.Severity.ERROR, reason)

    def _report(self, monitor: Any) -> bool:
        assert monitor._constructed
        monitor.phase_start("Building", None, 3)
        monitor.phase_start("Timing", "Building", 2)
        steps = [("Timing", 0), ("Timing", 1), *(("Building", step) for step in range(3))]
        if self._trt.interrupt:
            press_ctrl_c()
        done = True
        while done and steps:
            done = monitor.step_complete(*steps.pop(0))
            self._trt.steps += 1
        monitor.phase_finish("Timing")
        monitor.phase_finish("Building")
        return done

    def _report_from_thread(self, monitor: Any) -> bool:
        """The calling thread waits in C, where Python runs no handler of a signal.

        A mutex, since no signal ends the wait for one.
        """
        libc, mutex, done = ctypes.CDLL(None), ctypes.create_string_buffer(64), []
        locked = threading.Event()

        def work() -> None:
            libc.pthread_mutex_lock(mutex)
            locked.set()
            time.sleep(0.1)  # until the calling thread waits, and no longer in Python
            try:
                done.append(self._report(monitor))
            finally:
                libc.pthread_mutex_unlock(mutex)

        thread = threading.Thread(target=work)
        thread.start()
        locked.wait()
        libc.pthread_mutex_lock(mutex)
        libc.pthread_mutex_unlock(mutex)
        thread.join()
        return done == [True]
