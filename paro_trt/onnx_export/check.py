"""Reads an exported file back and compares it with the plan and the op's tables."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from ..errors import OnnxFileError
from ..onnx_file.read import (
    Body,
    Constants,
    attributes_of,
    attributes_read,
    body_of,
    external_files,
    op_version,
)
from ..op.mask import tile_order
from ..op.spec import DOMAIN, OP_TYPE, OP_VERSION_2, VERSION_2_INPUTS, op_attributes, op_inputs
from ..plan import LayerPlan, ParoPlan
from .bodies import Features
from .versions import unused_input

_FREE_SCALE = ("scale", "plugin_version", "plugin_namespace")
"""Attributes that no plan contains. The model determines the scale."""


@dataclass(frozen=True)
class ExportReport:
    """The content of a checked file.

    Args:
        path: the file.
        bytes: its size; external_bytes: the size of its external data, shared or not.
        opset: version of the standard operators.
        nodes: operators in the graph.
        layers: layers that are PAROAttention, in order; empty for a dense model.
        body: the function that computes them in a runtime without the plugin.
    """

    path: Path
    bytes: int
    external_bytes: int
    opset: int
    nodes: int
    layers: tuple[str, ...]
    body: Body

    def at(self, path: Path) -> ExportReport:
        """The same file under another name."""
        return replace(self, path=path)


def check_export(path: Path, plan: ParoPlan | None, body: Body) -> ExportReport:
    """Check a file against the plan it was made with; None for a dense model.

    The file must pass ONNX's full check with strict shape inference. It must have one node per
    layer with exactly the plan's attributes and tensors, the right function and no other, and a
    free batch.

    Raises:
        OnnxFileError: anything differs.
    """
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:  # checker, shape inference and protobuf share no narrower base
        raise OnnxFileError(
            path.name, expected="a valid ONNX model", actual=str(error).splitlines()[0][:200]
        ) from error
    model = onnx.load(path, load_external_data=False)
    expected_body = Body.NONE if plan is None else body
    _check_functions(path, model, expected_body, None if plan is None else features_of(plan))
    _check_free_batch(path, model)
    nodes = [node for node in model.graph.node if node.domain == DOMAIN]
    names = tuple(node.name.removesuffix(f"/{OP_TYPE}") for node in nodes)
    planned = () if plan is None else tuple(layer.name for layer in plan.layers)
    _require_equal(path, "PAROAttention nodes", sorted(names), sorted(planned))
    if plan is not None:
        constants = Constants(path, model)
        for node, name in zip(nodes, names, strict=True):
            check_node(path, node, plan.layer(name), plan, constants)
    return ExportReport(
        path=path,
        bytes=path.stat().st_size,
        external_bytes=sum((path.parent / name).stat().st_size for name in external_files(model)),
        opset=next(entry.version for entry in model.opset_import if entry.domain == ""),
        nodes=len(model.graph.node),
        layers=names,
        body=expected_body,
    )


def features_of(plan: ParoPlan) -> Features:
    """What any layer of a plan uses of version 2 of the op."""
    used = [_features_of_layer(layer) for layer in plan.layers]
    return Features(*(any(of_layers) for of_layers in zip(*used, strict=True)))


def _features_of_layer(layer: LayerPlan) -> Features:
    return Features(
        fine_summaries=layer.fine_mask is not None,
        mean_correction=layer.corrected_heads is not None,
        routing=layer.dynamic_blocks is not None,
        smoothing=layer.rotation is not None,
    )


def _check_functions(
    path: Path, model: onnx.ModelProto, body: Body, features: Features | None
) -> None:
    if features is not None:
        _require_equal(path, "version of the op", op_version(model), features.version)
    for function in model.functions:
        computed = [name for name in Features._fields if name in attributes_read(function)]
        used = [name for name, value in (features or Features())._asdict().items() if value]
        _require_equal(path, "features of the function", computed, used)
    expected = [] if body is Body.NONE else [(DOMAIN, OP_TYPE)]
    found = [(function.domain, function.name) for function in model.functions]
    _require_equal(path, "local functions", found, expected)
    _require_equal(path, "function body", body_of(model), body)
    outside = Counter(node.domain for node in model.graph.node if node.domain not in ("", DOMAIN))
    _require_equal(path, "operators of other domains", dict(outside), {})


def _check_free_batch(path: Path, model: onnx.ModelProto) -> None:
    for value in (*model.graph.input, *model.graph.output):
        batch = value.type.tensor_type.shape.dim[0]
        if not batch.dim_param:
            raise OnnxFileError(
                f"{path.name}: {value.name}",
                expected="a free batch size",
                actual=f"a batch of {batch.dim_value}",
            )


def check_node(
    path: Path, node: onnx.NodeProto, layer: LayerPlan, plan: ParoPlan, constants: Constants
) -> None:
    """Raise OnnxFileError unless a node has the attributes and constants of its layer's plan."""
    attributes = attributes_of(node)
    version = features_of(plan).version
    names = sorted(entry.name for entry in op_attributes(version))
    _require_equal(path, f"attributes of {node.name}", sorted(attributes), names)
    expected = {
        "block_q": plan.block_q,
        "block_k": plan.block_k,
        "qk_bits": layer.qk_bits,
        "pv_bits": layer.pv_bits,
        "pool_dropped": int(plan.pool_dropped),
    }
    if version == OP_VERSION_2:
        used = _features_of_layer(layer)
        expected |= {name: int(value) for name, value in used._asdict().items()}
    _require_equal(
        path, f"plugin_version of {node.name}", attributes["plugin_version"], str(version)
    )
    actual = {name: attributes[name] for name in names if name not in _FREE_SCALE}
    _require_equal(path, f"attributes of {node.name}", actual, expected)
    tensors = {
        "token_order": plan.orders,
        "head_order": layer.head_order,
        "block_mask": layer.block_mask,
        "tile_order": tile_order(layer.block_mask),
        "channel_affine": layer.channel_affine,
    }
    for entry in VERSION_2_INPUTS:
        given = getattr(layer, entry.name)
        tensors[entry.name] = (
            unused_input(entry.name, layer.block_mask.shape, layer.channel_affine.shape)
            if given is None
            else given
        )
    inputs = op_inputs(version)
    _require_equal(path, f"inputs of {node.name}", len(node.input), len(inputs))
    for entry, source in zip(inputs, node.input, strict=True):
        if entry.name in tensors:
            _check_constant(
                f"{path.name}: {entry.name} of {node.name}",
                constants.get(source),
                tensors[entry.name],
            )


def _check_constant(
    subject: str, actual: NDArray[np.generic] | None, expected: NDArray[np.generic]
) -> None:
    if actual is None:
        raise OnnxFileError(subject, expected="a constant", actual="a computed tensor")
    same = (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    if not same or actual.tobytes() != expected.tobytes():
        raise OnnxFileError(
            subject,
            expected=f"the plan's {expected.dtype}{list(expected.shape)}",
            actual=f"{actual.dtype}{list(actual.shape)} with other values",
        )


def _require_equal(path: Path, what: str, actual: object, expected: object) -> None:
    if actual != expected:
        raise OnnxFileError(
            f"{path.name}: {what}", expected=str(expected)[:300], actual=str(actual)[:300]
        )
