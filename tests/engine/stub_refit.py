"""The part of the stub TensorRT that replaces weights of engines; see `stub_tensorrt`."""

from __future__ import annotations

import base64
import ctypes
import math
from typing import TYPE_CHECKING, Any

from .guarded import Guarded
from .stub_runtime import ICudaEngine

if TYPE_CHECKING:
    from .stub_tensorrt import StubTensorRt

_DATA_TYPES = {1: "FLOAT", 10: "HALF", 16: "BF16"}
_ITEM_SIZES = {"FLOAT": 4, "HALF": 2, "BF16": 2}


class Weights(Guarded):
    def __init__(self, trt: StubTensorRt, type: Any, ptr: int, count: int) -> None:
        super().__init__(trt)
        self._type, self._pointer, self._count = type, ptr, count

    @property
    def dtype(self) -> Any:
        return self._type

    @property
    def size(self) -> int:
        return self._count


class Refitter(Guarded):
    """Reads weights where they lie when the engine is refitted, and refuses what does not fit."""

    def __init__(self, trt: StubTensorRt, engine: ICudaEngine, logger: Any, names: Any) -> None:
        super().__init__(trt)
        assert logger._constructed
        assert engine.refittable
        self._engine, self._logger, self._names = engine, logger, names
        self._given: dict[str, Weights] = {}

    def get_all_weights(self) -> list[str]:
        return list(self._engine._content["refittable"])

    def get_weights_prototype(self, weights_name: str) -> Weights:
        if weights_name not in self.get_all_weights():
            return Weights(self._trt, self._names.DataType.FLOAT, 0, -1)
        tensor = self._engine._weights[weights_name]
        kind = getattr(self._names.DataType, _DATA_TYPES[tensor.data_type])
        return Weights(self._trt, kind, 0, math.prod(tensor.dims))

    def set_named_weights(self, name: str, weights: Weights) -> bool:
        prototype = self.get_weights_prototype(name)
        if (prototype.size, prototype.dtype) != (weights.size, weights.dtype):
            self._logger.log(self._names.Severity.ERROR, f"{name} does not fit its prototype")
            return False
        self._given[name] = weights
        return True

    def get_missing_weights(self) -> list[str]:
        coupled = self._trt.coupled
        return sorted(coupled - self._given.keys()) if coupled & self._given.keys() else []

    def refit_cuda_engine(self) -> bool:
        if self.get_missing_weights():
            self._logger.log(self._names.Severity.ERROR, "missing weights")
            return False
        for name, weights in self._given.items():
            size = weights.size * _ITEM_SIZES[weights.dtype.name]
            values = ctypes.string_at(weights._pointer, size)
            self._engine._content["weights"][name] = base64.b64encode(values).decode()
        self._engine._session = None
        self._trt.refits += 1
        return True
