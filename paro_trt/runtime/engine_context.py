"""One execution context of an engine, on a stream of its own."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..engine import cuda
from ..engine.errors import EngineError
from ..engine.load import LoadedEngine
from ..errors import ArgumentError, ParoError
from ..onnx_file.tensors import check_names
from .dlpack import TensorView, empty_like
from .engine_checks import input_views, output_shape, output_view

LOG = logging.getLogger("paro_trt.runtime")

ALIGNMENT = 256


@dataclass(frozen=True)
class DeviceMemory:
    """Device memory that the caller lends for an engine's activations.

    Args:
        address: aligned to 256 bytes.
        size: bytes, at least `Engine.device_memory_bytes`.

    Raises:
        ArgumentError: it is not aligned.
    """

    address: int
    size: int

    def __post_init__(self) -> None:
        if self.address <= 0 or self.address % ALIGNMENT:
            raise ArgumentError(
                "device_memory", expected=f"an address aligned to {ALIGNMENT} bytes",
                actual=hex(self.address),
            )  # fmt: skip


class EngineContext:
    """Runs an engine. Not for two threads at once: make one for each thread, all of one engine.

    Args:
        loaded: the engine.
        gpu: index of its GPU.
        cuda_graph: the second run in a row with the same shapes captures a CUDA graph, which
            later ones replay. Tensors on the GPU are then copied to and from buffers of the
            context's own, since a graph holds for its addresses alone. Where a capture fails, one
            warning says so, and this and later runs go without.
        device_memory: lent for activations; None lets TensorRT allocate.
    """

    def __init__(
        self,
        loaded: LoadedEngine,
        gpu: int,
        *,
        cuda_graph: bool = False,
        device_memory: DeviceMemory | None = None,
    ) -> None:
        self._manifest = loaded.manifest
        self._gpu = gpu
        self._use_graph = cuda_graph
        self._graph: tuple[Any, Any] | None = None
        """Addresses and shapes it was captured with, and the executable graph."""
        self._state_before: Any = None
        # An engine of several profiles has none that its contexts begin with for sure.
        self._profile = 0 if not self._manifest.profiles else None
        self._buffers: dict[str, Any] = {}
        self._in_flight: list[TensorView] = []
        self._copied_out: list[tuple[TensorView, int]] = []
        self._context: Any = _make_context(loaded, device_memory)
        self._memory: Any = cuda.device_memory(gpu)
        self.stream: Any = cuda.core().Device(gpu).create_stream()
        """cuda.core's Stream."""

    def run(
        self,
        inputs: Mapping[str, Any],
        outputs: Mapping[str, Any] | None = None,
        *,
        wait: bool = True,
    ) -> dict[str, Any]:
        """Outputs by name.

        Args:
            inputs: NumPy arrays or tensors that speak DLPack, on the host or the engine's GPU;
                those on the GPU are used where they are, but for a CUDA graph.
            outputs: tensors to write into, some or all; None for new ones, NumPy's or torch's
                as the inputs are, on their device.
            wait: return when the outputs are there; else `synchronize` waits, and inputs must
                not change before.

        Raises:
            ArgumentError: inputs or outputs are not what the engine takes; nothing was run.
            EngineError: TensorRT refused; CudaError: CUDA did.
        """
        if self._context is None:
            raise ArgumentError("engine", expected="an open context", actual="a closed one")
        with cuda.on_gpu(self._gpu):
            made = self._queue(inputs, outputs or {})
        if wait:
            self.synchronize()
        return made

    def _queue(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> dict[str, Any]:
        # A second run would overwrite the staging buffers of one still in flight.
        self.synchronize()
        views, sizes = input_views(self._manifest.inputs, inputs, self._gpu, self._address)
        profile = self._manifest.profile_of(sizes)
        made, made_views = self._outputs(inputs, outputs, sizes)
        self._copied_out = []
        self._choose_profile(profile)
        state = self._bind(views, made_views)
        self._execute(state)
        for view, address in self._copied_out:
            cuda.copy(view.address, address, view.nbytes, self.stream)
        self._in_flight = [*views.values(), *made_views.values()]
        return made

    def synchronize(self) -> None:
        """Wait for the last run."""
        if self._in_flight:
            with cuda.on_gpu(self._gpu):
                self.stream.sync()
            self._in_flight = []

    def close(self) -> None:
        """Release context, buffers and stream. Harmless when repeated."""
        if self._context is None:
            return
        with cuda.on_gpu(self._gpu):
            self.synchronize()
            # cuda.core frees what nothing refers to any more.
            self._context = self._graph = self._memory = None
            self._buffers = {}
            self.stream.close()

    def _outputs(
        self, inputs: Mapping[str, Any], given: Mapping[str, Any], sizes: Mapping[str, int]
    ) -> tuple[dict[str, Any], dict[str, TensorView]]:
        entries = self._manifest.outputs
        if given:
            check_names("outputs", [entry for entry in entries if entry.name in given], given)
        like = max(inputs.values(), key=lambda value: int(value.__dlpack_device__()[0] == 2))
        made, views = {}, {}
        for entry in entries:
            shape = output_shape(entry, sizes)
            value = given.get(entry.name)
            if value is None:
                value = empty_like(entry.name, like, shape, entry.dtype)
            made[entry.name] = value
            views[entry.name] = output_view(entry, value, shape, self._gpu, self._address)
        return made, views

    def _choose_profile(self, index: int) -> None:
        if index == self._profile:
            return
        # On the stream of the runs, so that nothing else must wait for it. Shapes are set anew.
        chosen = self._context.set_optimization_profile_async(index, self._address)
        self._require(f"optimization profile {index}", chosen)
        self._profile, self._graph, self._state_before = index, None, None

    def _bind(self, inputs: Mapping[str, TensorView], outputs: Mapping[str, TensorView]) -> Any:
        """Give TensorRT shapes and addresses; host tensors go by buffers on the device, and all do
        for a CUDA graph."""
        state = []
        for name, view in inputs.items():
            self._require(name, self._context.set_input_shape(name, view.shape))
            address = self._device_address(name, view)
            if address != view.address:
                cuda.copy(address, view.address, view.nbytes, self.stream)
            self._require(name, self._context.set_tensor_address(name, address))
            state.append((name, view.shape, address))
        for name, view in outputs.items():
            address = self._device_address(name, view)
            if address != view.address:
                self._copied_out.append((view, address))
            self._require(name, self._context.set_tensor_address(name, address))
            state.append((name, view.shape, address))
        return tuple(state)

    def _device_address(self, name: str, view: TensorView) -> int:
        if view.gpu is not None and not self._use_graph:
            return view.address
        if name not in self._buffers or self._buffers[name].size < view.nbytes:
            # The old one is freed first: the two never take memory together.
            self._buffers.pop(name, None)
            self._buffers[name] = self._memory.allocate(view.nbytes, stream=self.stream)
        return int(self._buffers[name].handle)

    def _execute(self, state: Any) -> None:
        # TensorRT may allocate at the first run with new shapes, which a capture forbids; and
        # shapes that do not come back are not worth a graph.
        if not self._use_graph or self._state_before != state:
            self._enqueue()
            self._state_before = state
            return
        if self._graph is None or self._graph[0] != state:
            self._graph = None
            try:
                self._graph = (state, self._captured())
            except ParoError as error:
                self._enqueue()  # raises where it is not the capture that is refused
                self._use_graph = False
                LOG.warning("no CUDA graph: its capture failed, runs go without: %s", error)
                return
        self._graph[1].launch(self.stream)

    def _captured(self) -> Any:
        """The graph of one execution, ready to launch."""
        with cuda.our_errors():
            builder = self.stream.create_graph_builder()
            try:
                builder.begin_building("thread_local")
                self._enqueue()
                return builder.end_building().complete()
            finally:
                builder.close()

    def _enqueue(self) -> None:
        self._require("execution", self._context.execute_async_v3(self._address))

    @property
    def _address(self) -> int:
        """Of the stream, as other libraries take it."""
        return int(self.stream.handle)

    def _require(self, what: str, done: bool) -> None:
        if not done:
            raise EngineError(
                what, expected="TensorRT to accept it", actual="a refusal",
                remedy="its log has the reason: logging.getLogger('paro_trt.tensorrt')",
            )  # fmt: skip


def _make_context(loaded: LoadedEngine, memory: DeviceMemory | None) -> Any:
    strategies = loaded.trt.module.ExecutionContextAllocationStrategy
    strategy = strategies.STATIC if memory is None else strategies.USER_MANAGED
    context = loaded.engine.create_execution_context(strategy)
    if context is None:
        raise EngineError(
            "execution context", expected="room for the engine's activations", actual="a refusal",
            remedy="free device memory, or build for smaller shapes",
        )  # fmt: skip
    if memory is not None:
        context.set_device_memory(memory.address, memory.size)
    return context
