"""The half of the stub TensorRT that loads and runs engines; see `stub_tensorrt`."""

from __future__ import annotations

import base64
import ctypes
import json
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime

from .guarded import Guarded

if TYPE_CHECKING:
    from .stub_tensorrt import StubTensorRt

_DTYPES = {"tensor(float)": "f4", "tensor(float16)": "f2", "tensor(int32)": "i4"}


class Runtime(Guarded):
    def __init__(self, trt: StubTensorRt, logger: Any, names: Any) -> None:
        super().__init__(trt)
        assert logger._constructed
        self._logger, self._names = logger, names
        if trt.refuse_start:
            logger.log(names.Severity.ERROR, trt.refuse_start)

    def deserialize_cuda_engine(self, serialized_engine: Any) -> ICudaEngine | None:
        content = json.loads(bytes(serialized_engine))
        if self._trt.refuse_load or content["version"] != self._trt.version:
            self._logger.log(self._names.Severity.ERROR, self._trt.refuse_load or "another version")
            return None
        engine = ICudaEngine(self._trt, content)
        self._trt.loaded.add(engine)
        return engine


class ICudaEngine(Guarded):
    device_memory_size_v2 = 4096
    streamable_weights_size = 1000

    def __init__(self, trt: StubTensorRt, content: dict[str, Any]) -> None:
        super().__init__(trt)
        self._content = content
        self._contexts: weakref.WeakSet[IExecutionContext] = weakref.WeakSet()
        self._open()
        if "weight_streaming_budget_v2" in trt.surface["ICudaEngine"]:
            self._budget = 1000 if content["streams"] else 0

    def _open(self) -> None:
        model = onnx.load(self._content["path"])
        for tensor in model.graph.initializer:
            if tensor.name in self._content["weights"]:
                tensor.raw_data = base64.b64decode(self._content["weights"][tensor.name])
        self._weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        self._inputs = self._session.get_inputs()
        self._outputs = self._session.get_outputs()

    @property
    def weight_streaming_budget_v2(self) -> int:
        return self._budget

    @weight_streaming_budget_v2.setter
    def weight_streaming_budget_v2(self, budget: int) -> None:
        # It cannot change while there are contexts, and stays as it was.
        if not self._contexts:
            self._budget = budget

    def get_weight_streaming_automatic_budget(self) -> int:
        return self._trt.automatic_budget

    @property
    def num_optimization_profiles(self) -> int:
        return max(1, len(self._content["profiles"]))

    @property
    def refittable(self) -> bool:
        return bool(self._content["refittable"])

    def serialize(self) -> bytes:
        return json.dumps(self._content).encode()

    @property
    def num_io_tensors(self) -> int:
        return len(self._inputs) + len(self._outputs)

    def get_tensor_name(self, index: int) -> str:
        return [*self._inputs, *self._outputs][index].name

    def create_execution_context(self, strategy: Any = None) -> IExecutionContext:
        self._trt.contexts += 1
        context = IExecutionContext(self._trt, self, strategy.name)
        self._contexts.add(context)
        return context


class IExecutionContext(Guarded):
    def __init__(self, trt: StubTensorRt, engine: ICudaEngine, strategy: str) -> None:
        super().__init__(trt)
        self._engine, self._strategy = engine, strategy
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._memory: tuple[int, int] | None = None
        # Of several, the first context alone begins with one.
        first = not engine._contexts or engine.num_optimization_profiles == 1
        self._profile = 0 if first else -1

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        if not 0 <= profile_index < self._engine.num_optimization_profiles or not stream_handle:
            return False
        self._profile = profile_index
        self._shapes.clear()
        return True

    def set_device_memory(self, memory: int, size: int) -> None:
        self._memory = self._trt.lent_memory = (memory, size)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        profiles = self._engine._content["profiles"]
        if self._profile < 0:
            return False
        ranges = profiles[self._profile].get(name) if profiles else None
        if ranges is not None:
            low, _, high = ranges
            if not all(a <= size <= b for a, size, b in zip(low, shape, high, strict=True)):
                return False
        self._shapes[name] = shape
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        if self._strategy == "USER_MANAGED" and self._memory is None:
            return False
        if set(self._shapes) != {entry.name for entry in self._engine._inputs}:
            return False
        calls = self._trt.cuda.calls
        captures = calls.count("cuStreamBeginCapture") > calls.count("cuStreamEndCapture")
        streams = self._engine._content["streams"] and self._engine._budget < 1000
        if captures and (streams or self._trt.refuse_capture):
            return False
        shapes, addresses = dict(self._shapes), dict(self._addresses)
        if self._engine._session is None:  # it was refitted
            self._engine._open()
        session = self._engine._session  # the work keeps neither context nor engine
        self._trt.cuda.enqueue(stream_handle, lambda: _compute(session, shapes, addresses))
        self._trt.executions += 1
        return True


def _compute(session: Any, shapes: dict[str, Any], addresses: dict[str, int]) -> None:
    inputs = {
        entry.name: _array(addresses[entry.name], shapes[entry.name], _DTYPES[entry.type])
        for entry in session.get_inputs()
    }
    results = session.run(None, inputs)
    for entry, result in zip(session.get_outputs(), results, strict=True):
        target = _array(addresses[entry.name], result.shape, _DTYPES[entry.type])
        target[...] = result


def _array(address: int, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    buffer = (ctypes.c_char * size).from_address(address)
    return np.frombuffer(buffer, dtype).reshape(shape)
