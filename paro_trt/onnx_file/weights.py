"""Weights of an exported file by their names in the model, and how its graph uses them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

WEIGHT_PREFIX = "model."
"""What stands before the name that a weight has in the model, in the name of its initializer."""

_BIAS, _WEIGHT = ".bias", ".weight"


@dataclass(frozen=True)
class NamedWeight:
    """A weight of the model in a file.

    Args:
        name: in the model.
        dtype: NumPy's name of the element type, or "bfloat16".
        shape: in the model.
        transposed: the file holds the transpose.
        linear: it is the weight or the bias of one linear layer, and nothing else uses it.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    transposed: bool
    linear: bool

    @property
    def initializer(self) -> str:
        """Its name in the file, and in TensorRT's network."""
        return WEIGHT_PREFIX + self.name


@dataclass(frozen=True)
class _Use:
    operator: str
    place: int
    transposes: bool

    @property
    def is_linear(self) -> bool:
        """A linear layer is MatMul with the transposed weight, or Gemm that transposes it."""
        return self.place == 1 and (
            self.operator == "MatMul" or (self.operator == "Gemm" and self.transposes)
        )


def named_weights(model: onnx.ModelProto) -> tuple[NamedWeight, ...]:
    """Weights of a model that its file has by name, in the file's order.

    Others are missing because nothing uses them, or because small ones of equal values are one.
    """
    from onnx import helper

    uses: dict[str, list[_Use]] = {}
    for name, use in _uses(model):
        uses.setdefault(name, []).append(use)
    tensors = {
        tensor.name.removeprefix(WEIGHT_PREFIX): tensor
        for tensor in model.graph.initializer
        if tensor.name.startswith(WEIGHT_PREFIX)
    }
    linear = {
        name
        for name, tensor in tensors.items()
        if len(tensor.dims) == 2 and [use.is_linear for use in uses.get(tensor.name, [])] == [True]
    }
    found = []
    for name, tensor in tensors.items():
        used = uses.get(tensor.name, [])
        transposed = len(tensor.dims) == 2 and any(
            use.is_linear and use.operator == "MatMul" for use in used
        )
        of_linear = name.removesuffix(_BIAS) + _WEIGHT in linear and len(used) == 1
        shape = tuple(tensor.dims)
        found.append(
            NamedWeight(
                name=name,
                dtype=str(helper.tensor_dtype_to_np_dtype(tensor.data_type)),
                shape=shape[::-1] if transposed else shape,
                transposed=transposed,
                linear=name in linear or (name.endswith(_BIAS) and of_linear),
            )
        )
    return tuple(found)


def _uses(model: onnx.ModelProto) -> Iterator[tuple[str, _Use]]:
    """Every use of a value in the main graph; constants are not used in its subgraphs."""
    for node in model.graph.node:
        transposes = any(entry.name == "transB" and entry.i == 1 for entry in node.attribute)
        for place, name in enumerate(node.input):
            yield name, _Use(node.op_type, place, transposes)
