"""Weights of an exported graph that stay where they are, on disk or in a module, until written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..onnx_file.weights import WEIGHT_PREFIX

if TYPE_CHECKING:
    import onnx_ir
    from torch import Tensor

    from ..models.weights import Checkpoint


class StoredWeight:
    """Reads one weight whenever it is called, as what an onnx_ir.LazyTensor needs.

    Nothing is kept, so that writing a model takes the memory of its largest tensor.

    Args:
        source: a checkpoint, or the tensor itself.
        name: in the model.
        order: of the axes; None leaves them.
    """

    def __init__(
        self, source: Checkpoint | Tensor, name: str, order: tuple[int, ...] | None = None
    ) -> None:
        self.source, self.name, self.order = source, name, order

    def __call__(self) -> Any:
        from onnx_ir.tensor_adapters import TorchTensor

        from ..models.weights import Checkpoint

        tensor = self.source
        if isinstance(tensor, Checkpoint):
            tensor = tensor.read(self.name)
        if self.order is not None:
            tensor = tensor.permute(self.order)
        return TorchTensor(tensor.contiguous(), self.name)


def stored_weight(tensor: Any) -> StoredWeight | None:
    """Where an IR tensor is read from; None of one whose values are in memory as they are."""
    source = getattr(tensor, "raw", None)
    return source if isinstance(source, StoredWeight) else None


def refer_to_weights(model: Any, stored: Checkpoint | None) -> None:
    """Give the parameters of an IR model, as traced, tensors that read them when asked.

    Linear layers are traced as a matrix product with a transposed weight. The exporter's optimizer
    transposes such weights in memory and keeps the results; here they are transposed when read.

    Args:
        model: before it is optimized; its functions are inlined.
        stored: the weights of a module that was traced without them.
    """
    from onnxscript import optimizer
    from torch import nn
    from torch._subclasses import FakeTensor

    optimizer.inline(model)
    for value in model.graph.initializers.values():
        traced = value.const_value
        raw = getattr(traced, "raw", None)
        name = value.name.removeprefix(WEIGHT_PREFIX)
        if isinstance(raw, FakeTensor) and stored is not None:
            source: Any = stored
        elif isinstance(raw, nn.Parameter):
            source = raw.detach()
        else:
            continue
        value.const_value = _lazy(StoredWeight(source, name), traced.dtype, traced.shape, value)
    for node in list(model.graph):
        if (node.domain, node.op_type) == ("", "Transpose"):
            _transpose_when_read(model.graph, node)


def _transpose_when_read(graph: onnx_ir.Graph, node: onnx_ir.Node) -> None:
    """Replace the transpose of a weight that nothing else uses by the transposed weight."""
    import onnx_ir

    (value,), (output,) = node.inputs, node.outputs
    weight = None if value is None else stored_weight(value.const_value)
    if value is None or weight is None or len(value.uses()) != 1 or output.is_graph_output():
        return
    tensor = value.const_value
    assert tensor is not None
    rank = len(tensor.shape)
    given = node.attributes.get("perm")
    order = tuple(given.as_ints()) if given is not None else tuple(reversed(range(rank)))
    sizes = tensor.shape.numpy()
    shape = onnx_ir.Shape([sizes[axis] for axis in order])
    output.replace_all_uses_with(value)
    graph.remove(node, safe=True)
    transposed = StoredWeight(weight.source, weight.name, order)
    value.const_value = _lazy(transposed, tensor.dtype, shape, value)
    value.shape = shape


def _lazy(weight: StoredWeight, dtype: Any, shape: Any, value: onnx_ir.Value) -> Any:
    import onnx_ir

    return onnx_ir.LazyTensor(weight, dtype, shape, name=value.name)
