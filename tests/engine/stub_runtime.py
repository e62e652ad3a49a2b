"""The half of the stub TensorRT that loads and runs engines; see `stub_tensorrt`."""

from __future__ import annotations

import ctypes
import json
from typing import TYPE_CHECKING, Any

import numpy as np
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
        self._trt.engine = ICudaEngine(self._trt, content["path"])
        return self._trt.engine


class ICudaEngine(Guarded):
    device_memory_size_v2 = 4096
    streamable_weights_size = 1000

    def __init__(self, trt: StubTensorRt, path: str) -> None:
        super().__init__(trt)
        self._session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self._inputs = self._session.get_inputs()
        self._outputs = self._session.get_outputs()
        if "weight_streaming_budget_v2" in trt.surface["ICudaEngine"]:
            self.weight_streaming_budget_v2 = 1000

    @property
    def num_io_tensors(self) -> int:
        return len(self._inputs) + len(self._outputs)

    def get_tensor_name(self, index: int) -> str:
        return [*self._inputs, *self._outputs][index].name

    def create_execution_context(self, strategy: Any = None) -> IExecutionContext:
        self._trt.contexts += 1
        return IExecutionContext(self._trt, self, strategy.name)


class IExecutionContext(Guarded):
    def __init__(self, trt: StubTensorRt, engine: ICudaEngine, strategy: str) -> None:
        super().__init__(trt)
        self._engine, self._strategy = engine, strategy
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._memory: tuple[int, int] | None = None

    def set_device_memory(self, memory: int, size: int) -> None:
        self._memory = self._trt.lent_memory = (memory, size)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shapes[name] = shape
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        if self._strategy == "USER_MANAGED" and self._memory is None:
            return False
        shapes, addresses = dict(self._shapes), dict(self._addresses)
        self._trt.cuda.enqueue(stream_handle, lambda: self._compute(shapes, addresses))
        self._trt.executions += 1
        return True

    def _compute(self, shapes: dict[str, Any], addresses: dict[str, int]) -> None:
        inputs = {
            entry.name: _array(addresses[entry.name], shapes[entry.name], _DTYPES[entry.type])
            for entry in self._engine._inputs
        }
        results = self._engine._session.run(None, inputs)
        for entry, result in zip(self._engine._outputs, results, strict=True):
            target = _array(addresses[entry.name], result.shape, _DTYPES[entry.type])
            target[...] = result


def _array(address: int, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    buffer = (ctypes.c_char * size).from_address(address)
    return np.frombuffer(buffer, dtype).reshape(shape)
