"""An engine file, loaded and ready to run."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any

from ..engine import cuda
from ..engine.load import LoadedEngine, load_engine
from ..engine.manifest import EngineManifest
from ..errors import ArgumentError, BackendUnavailableError
from .engine_context import DeviceMemory, EngineContext

_STREAMING, _MEMORY = "weight_streaming_budget_v2", "device_memory_size_v2"
_SINCE = "TensorRT 10.3 or later"


class Engine:
    """A TensorRT engine. Use as a context manager, or call `close`.

    Args:
        path: the engine; its manifest is next to it and is checked first.
        plan_hash: the plan it must have been built with; None for any.
        cuda_graph: `run` captures a CUDA graph and replays it while shapes stay: `EngineContext`.
        weight_streaming_budget: bytes of weights to keep on the GPU, the others are streamed
            from host memory; for engines built with weight streaming. None keeps all.
        gpu: index of the GPU to run on, from any thread; None: the current one.
        check_hash: compare the file with its manifest's SHA-256, which reads it once more than
            loading does; False compares its size.

    Raises:
        EngineError: engine or manifest is missing, damaged, or for another plan, TensorRT, GPU
            or plugin.
        BackendUnavailableError: TensorRT, CUDA, a GPU or the plugin is missing.
        ArgumentError: a budget for an engine that cannot stream its weights; no such GPU.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        plan_hash: str | None = None,
        cuda_graph: bool = False,
        weight_streaming_budget: int | None = None,
        gpu: int | None = None,
        check_hash: bool = True,
    ) -> None:
        self.path = Path(path)
        with cuda.on_gpu(gpu):
            self._loaded: LoadedEngine | None = load_engine(
                self.path, plan_hash=plan_hash, check_hash=check_hash
            )
            self._gpu = cuda.current_gpu().index
        self._manifest = self._loaded.manifest
        self._cuda_graph = cuda_graph
        self._contexts: list[EngineContext] = []
        self._own: EngineContext | None = None
        if weight_streaming_budget is not None:
            self._stream_weights(self._loaded, weight_streaming_budget)

    @property
    def manifest(self) -> EngineManifest:
        """The engine's manifest."""
        return self._manifest

    @property
    def device_memory_bytes(self) -> int:
        """Bytes of activations that a context needs; BackendUnavailableError before 10.3."""
        return int(_attribute(self._open(), _MEMORY))

    def run(
        self, inputs: Mapping[str, Any], outputs: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Outputs by name; see `EngineContext.run`."""
        if self._own is None:
            self._own = self.context(cuda_graph=self._cuda_graph)
        return self._own.run(inputs, outputs)

    def context(
        self, *, cuda_graph: bool = False, device_memory: DeviceMemory | None = None
    ) -> EngineContext:
        """Another context, on a stream of its own; closed with the engine.

        Raises:
            ArgumentError: the memory lent is too small.
            BackendUnavailableError: memory lent, and a TensorRT before 10.3.
        """
        loaded = self._open()
        if device_memory is not None and device_memory.size < self.device_memory_bytes:
            raise ArgumentError(
                "device_memory",
                expected=f"at least {self.device_memory_bytes} bytes",
                actual=str(device_memory.size),
            )
        with cuda.on_gpu(self._gpu):
            made = EngineContext(
                loaded, self._gpu, cuda_graph=cuda_graph, device_memory=device_memory
            )
        self._contexts.append(made)
        return made

    def close(self) -> None:
        """Release the engine and its contexts. Harmless when repeated."""
        for context in self._contexts:
            context.close()
        self._contexts, self._own, self._loaded = [], None, None

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _open(self) -> LoadedEngine:
        if self._loaded is None:
            raise ArgumentError(str(self.path), expected="an open engine", actual="a closed one")
        return self._loaded

    def _stream_weights(self, loaded: LoadedEngine, budget: int) -> None:
        if not self._manifest.tensorrt.weight_streaming:
            raise ArgumentError(
                "weight_streaming_budget",
                expected="none: this engine cannot stream its weights",
                actual=str(budget),
                remedy="paro-trt build --weight-streaming",
            )
        _attribute(loaded, _STREAMING)
        total = int(loaded.engine.streamable_weights_size)
        if not 0 <= budget <= total:
            raise ArgumentError(
                "weight_streaming_budget", expected=f"0 to {total} bytes", actual=str(budget)
            )
        loaded.engine.weight_streaming_budget_v2 = budget


def _attribute(loaded: LoadedEngine, name: str) -> Any:
    value = getattr(loaded.engine, name, None)
    if value is None:
        raise BackendUnavailableError(
            f"{loaded.trt.flavour.label} {loaded.trt.version}", expected=_SINCE, actual=f"no {name}"
        )
    return value
