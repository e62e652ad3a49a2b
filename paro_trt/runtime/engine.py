"""An engine file, loaded and ready to run."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any

from ..engine import cuda
from ..engine.load import LoadedEngine, check_engine_file, check_machine, load_engine
from ..engine.manifest import EngineManifest
from ..errors import ArgumentError
from .engine_context import LOG, DeviceMemory, EngineContext
from .weight_streaming import Budget, check_budget, engine_attribute, stream_weights

_MEMORY = "device_memory_size_v2"


class EngineTurns:
    """Engines that share a GPU's memory: one is loaded at a time, the others when they run.

    Pass one to every `Engine` that takes turns: the two experts of a pipeline, for example, of
    which the second begins when the first has done its steps.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        """Held while an engine of these loads or runs."""
        self._holder: Engine | None = None

    def take(self, engine: Engine) -> None:
        """Unload the engine that is loaded, if it is another."""
        if self._holder is not None and self._holder is not engine:
            self._holder.unload()
        self._holder = engine


class Engine:
    """A TensorRT engine. Use as a context manager, or call `close`.

    Args:
        path: the engine; its manifest is next to it and is checked first.
        plan_hash: the plan it must have been built with; None for any.
        cuda_graph: `run` captures a CUDA graph and replays it while shapes stay: `EngineContext`.
            An engine that streams its weights cannot be captured, and is not.
        weight_streaming_budget: bytes of weights to keep on the GPU, the others are streamed
            from host memory; for engines built with weight streaming. "auto": what TensorRT
            chooses by the memory that is free when the engine is loaded. None keeps all.
        gpu: index of the GPU to run on, from any thread; None: the current one.
        check_hash: compare the file with its manifest's SHA-256, which reads it once more than
            loading does, once in a process; False compares its size.
        turns: engines that share the GPU's memory; the engine is then loaded when it first runs.

    Raises:
        EngineError: engine or manifest is missing, damaged, or for another plan, TensorRT, GPU
            or plugin. With `turns`, the content is checked when it is loaded.
        BackendUnavailableError: TensorRT, CUDA, a GPU or the plugin is missing.
        ArgumentError: a budget for an engine that cannot stream its weights; no such GPU.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        plan_hash: str | None = None,
        cuda_graph: bool = False,
        weight_streaming_budget: Budget = None,
        gpu: int | None = None,
        check_hash: bool = True,
        turns: EngineTurns | None = None,
    ) -> None:
        self.path = Path(path)
        self._plan_hash, self._check_hash = plan_hash, check_hash
        self._cuda_graph = cuda_graph
        self._wanted_budget = weight_streaming_budget
        self._turns = turns
        self._loaded: LoadedEngine | None = None
        self._closed = False
        self._gpu: int | None = gpu
        self._contexts: list[EngineContext] = []
        self._own: EngineContext | None = None
        self._budget: int | None = None
        self._manifest = check_engine_file(self.path, plan_hash)
        check_budget(self._manifest, weight_streaming_budget)
        with cuda.on_gpu(gpu):
            if turns is None:
                self.load()
            else:
                check_machine(self.path, self._manifest)
            self._gpu = cuda.current_gpu().index

    @property
    def manifest(self) -> EngineManifest:
        """The engine's manifest."""
        return self._manifest

    @property
    def device_memory_bytes(self) -> int:
        """Bytes of activations that a context needs; BackendUnavailableError before 10.3."""
        return int(engine_attribute(self._open(), _MEMORY))

    @property
    def weight_streaming_budget(self) -> int | None:
        """Bytes of weights that are kept on the GPU; None where all are, or none is loaded."""
        return self._budget

    @property
    def is_loaded(self) -> bool:
        """Whether the engine takes memory of the GPU."""
        return self._loaded is not None

    def load(self) -> None:
        """Load the engine, where `unload` or another engine's turn released it. Else nothing."""
        if self._closed:
            raise ArgumentError(str(self.path), expected="an open engine", actual="a closed one")
        if self._loaded is not None:
            return
        with self._turn(), cuda.on_gpu(self._gpu):
            if self._turns is not None:
                self._turns.take(self)
            loaded = load_engine(self.path, plan_hash=self._plan_hash, check_hash=self._check_hash)
            self._budget = stream_weights(loaded, self._wanted_budget)
            self._loaded, self._manifest = loaded, loaded.manifest

    def unload(self) -> None:
        """Release the GPU's memory; contexts are closed. The next run loads the engine again."""
        for context in self._contexts:
            context.close()
        self._contexts, self._own, self._loaded, self._budget = [], None, None, None

    def run(
        self, inputs: Mapping[str, Any], outputs: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Outputs by name; see `EngineContext.run`."""
        with self._turn():
            if self._own is None:
                self._own = self.context(cuda_graph=self._cuda_graph)
            return self._own.run(inputs, outputs)

    def context(
        self, *, cuda_graph: bool = False, device_memory: DeviceMemory | None = None
    ) -> EngineContext:
        """Another context, on a stream of its own; closed when the engine is closed or unloaded.

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
        if cuda_graph and self._budget is not None:
            LOG.info("%s streams its weights, which no CUDA graph can capture", self.path)
        assert self._gpu is not None
        with cuda.on_gpu(self._gpu):
            made = EngineContext(
                loaded, self._gpu, cuda_graph=cuda_graph and self._budget is None,
                device_memory=device_memory,
            )  # fmt: skip
        self._contexts.append(made)
        return made

    def close(self) -> None:
        """Release the engine and its contexts for good. Harmless when repeated."""
        self.unload()
        self._closed = True

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
        self.load()
        assert self._loaded is not None
        return self._loaded

    def _turn(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._turns is None else self._turns.lock
