"""Chosen layers of an exported file against the checkpoint and the plan, a tensor at a time.

For models that do not fit the memory: nothing is run, what the layers hold is compared bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ArgumentError, ModelError
from ..models.experts import is_of_model
from ..models.load import load_model
from ..models.lora import LoraFile
from ..onnx_export.check import check_node
from ..onnx_file.read import Constants, read_onnx
from ..onnx_file.source import read_source
from ..onnx_file.weights import WEIGHT_PREFIX
from ..op.spec import OP_TYPE
from ..plan import ParoPlan


@dataclass(frozen=True)
class LayerCheck:
    """What was compared of one layer.

    Args:
        name: of the layer, as in the plan.
        weights: tensors of the block it belongs to that were compared with the checkpoint.
        bytes: of them in the file.
        different: names of those whose bits differ.
    """

    name: str
    weights: int
    bytes: int
    different: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether there was something to compare and all of it is equal."""
        return self.weights > 0 and not self.different


def verify_layers(
    file: str | PathLike[str],
    model: str | PathLike[str],
    plan: ParoPlan | None,
    layers: Sequence[str],
    *,
    lora: Sequence[LoraFile] = (),
) -> tuple[LayerCheck, ...]:
    """Compare the weights of each layer's block with the checkpoint, and its node with the plan.

    Args:
        file: an exported ONNX file.
        model: the directory it was exported from.
        plan: the plan it was exported with; None compares weights alone.
        layers: names of layers, such as "blocks.0.attn1".
        lora: adapters that were fused into the file.

    Returns:
        One check for each layer. Weights that were folded into constants are not among them.

    Raises:
        ArgumentError: the file has no layer of a name.
        ModelError: the file is of another model or plan.
        OnnxFileError: the file is damaged, or a layer's attributes or constants are not the plan's.
    """
    path = Path(file)
    source = read_source(path)
    loaded = load_model(
        model, getattr(torch, source.inputs[0].dtype), lora=lora, weights_in_files=True
    )
    if not is_of_model(source.info.model, loaded.identity, loaded.config):
        raise ModelError(
            f"{path}: model",
            expected=f"the one at {loaded.path}",
            actual=f"{source.info.model.class_name} {source.info.model.config_hash[:12]}",
            remedy="verify against the model that was exported, or export again",
        )
    if plan is not None and plan.content_hash() != source.info.plan_hash:
        raise ModelError(
            f"{path}: plan",
            expected=f"the given plan, {plan.content_hash()[:12]}",
            actual=str(source.info.plan_hash)[:12],
            remedy="verify with the plan that was exported, or export again",
        )
    nodes = {
        node.name.removesuffix(f"/{OP_TYPE}"): node
        for node in source.proto.graph.node
        if node.name in source.attention
    }
    unknown = [name for name in layers if name not in nodes]
    if unknown:
        raise ArgumentError(
            "--layer", expected=f"one of {', '.join(nodes)}"[:300], actual=unknown[0][:80]
        )
    constants = Constants(path, read_onnx(path))
    names = [tensor.name for tensor in source.proto.graph.initializer]
    checks = []
    for layer in layers:
        if plan is not None:
            check_node(path, nodes[layer], plan.layer(layer), plan, constants)
        count, size, different = 0, 0, []
        for name in names:
            stored = name.removeprefix(WEIGHT_PREFIX)
            if loaded.stored is None or stored not in loaded.stored:
                continue
            if stored.startswith(f"{_block(layer)}."):
                actual = constants.get(name)
                assert actual is not None
                count, size = count + 1, size + actual.nbytes
                if not _same_bits(actual, loaded.stored.read(stored)):
                    different.append(stored)
        checks.append(LayerCheck(layer, count, size, tuple(different)))
    return tuple(checks)


def _block(layer: str) -> str:
    """The module of a layer's whole block: "blocks.3" of "blocks.3.attn1"."""
    parts = layer.split(".")
    numbers = [place for place, part in enumerate(parts) if part.isdecimal()]
    return ".".join(parts[: numbers[0] + 1] if numbers else parts[:-1] or parts)


def _same_bits(actual: NDArray[np.generic], expected: Tensor) -> bool:
    """Whether the file's tensor is the checkpoint's, or, of a linear layer, its transpose."""
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    bits = expected.contiguous().view(kinds[expected.element_size()]).numpy()
    found = actual.view(bits.dtype) if actual.itemsize == bits.itemsize else actual
    return np.array_equal(found, bits) or (found.ndim == 2 and np.array_equal(found, bits.T))
