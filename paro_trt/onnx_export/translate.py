"""Translates the torch op `paro::attention` to the ONNX node PAROAttention."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import onnx
import torch

from ..op import api as _registers_the_op  # noqa: F401
from ..op.spec import (
    DOMAIN,
    OP_TYPE,
    OP_VERSION,
    OP_VERSION_2,
    PLUGIN_NAMESPACE,
    AttributeSpec,
    op_attributes,
    op_inputs,
)
from .bodies import Features

_ATTRIBUTE_TYPES = {
    float: onnx.defs.OpSchema.AttrType.FLOAT,
    int: onnx.defs.OpSchema.AttrType.INT,
    str: onnx.defs.OpSchema.AttrType.STRING,
}
_ONNX_TYPES = {
    "float16": "tensor(float16)",
    "bfloat16": "tensor(bfloat16)",
    "float32": "tensor(float)",
    "int32": "tensor(int32)",
}


def translation_table() -> dict[Any, Callable[..., Any]]:
    """The `custom_translation_table` of `torch.onnx.export`.

    It keeps the op as one node, and fills masks with operators that every runtime has.
    """
    aten = torch.ops.aten
    return {
        torch.ops.paro.attention.default: attention_node,
        aten.masked_fill.Scalar: masked_fill_nodes,
        aten.masked_fill.Tensor: masked_fill_nodes,
    }


def masked_fill_nodes(values: Any, mask: Any, fill: Any) -> Any:
    """Emit `values.masked_fill(mask, fill)`.

    Booleans need no Where, which ONNX Runtime (1.32, CPU) does not implement for them.
    """
    import onnx_ir
    from onnxscript import opset18 as op

    if values.dtype is not onnx_ir.DataType.BOOL:
        return op.Where(mask, op.CastLike(fill, values), values)
    if isinstance(fill, bool | int | float):
        return op.Or(values, mask) if fill else op.And(values, op.Not(mask))
    wanted = op.Cast(fill, to=onnx_ir.DataType.BOOL)
    return op.Or(op.And(values, op.Not(mask)), op.And(wanted, mask))


def attention_node(
    query: Any,
    key: Any,
    value: Any,
    token_order: Any,
    head_order: Any,
    block_mask: Any,
    tile_order: Any,
    channel_affine: Any,
    mask_bin: Any,
    key_length: Any,
    fine_mask: Any,
    corrected_heads: Any,
    dynamic_blocks: Any,
    rotation: Any,
    scale: float,
    block_q: int,
    block_k: int,
    qk_bits: int,
    pv_bits: int,
    pool_dropped: int,
    impl: str,  # noqa: ARG001 (who computes is the runtime's choice)
) -> Any:
    """Emit the node, with every attribute written out.

    A call that uses what version 2 adds becomes a node of version 2, whose unused inputs are left
    out; `versions.settle_version` then gives all nodes of a model one version.

    TensorRT prefers its plugin to the function in the file only if the node carries
    `plugin_namespace`.
    """
    added = (fine_mask, corrected_heads, dynamic_blocks, rotation)
    used = {
        name: int(tensor is not None) for name, tensor in zip(Features._fields, added, strict=True)
    }
    version = OP_VERSION_2 if any(used.values()) else OP_VERSION
    inputs, attributes = (added, used) if version == OP_VERSION_2 else ((), {})
    return _operator(version)(
        query, key, value, token_order, head_order, block_mask, tile_order, channel_affine,
        mask_bin, key_length, *inputs, scale=scale, block_q=block_q, block_k=block_k,
        qk_bits=qk_bits, pv_bits=pv_bits, pool_dropped=pool_dropped, plugin_version=str(version),
        plugin_namespace=PLUGIN_NAMESPACE, **attributes,
    )  # fmt: skip


@cache
def _operator(version: int) -> Any:
    from onnxscript.values import Op, Opset

    return Op(Opset(DOMAIN, version), OP_TYPE, operator_schema(version))


def operator_schema(version: int = OP_VERSION) -> onnx.defs.OpSchema:
    """The ONNX schema of a version of the op, from the tables of `op.spec`."""
    inputs = op_inputs(version)
    return onnx.defs.OpSchema(
        OP_TYPE,
        DOMAIN,
        version,
        inputs=[
            onnx.defs.OpSchema.FormalParameter(entry.name, _type_of(entry.dtypes))
            for entry in inputs
        ],
        outputs=[onnx.defs.OpSchema.FormalParameter("output", "T")],
        type_constraints=[("T", [_ONNX_TYPES[name] for name in inputs[0].dtypes], "")],
        attributes=[_schema_attribute(entry) for entry in op_attributes(version)],
    )


def _type_of(dtypes: tuple[str, ...]) -> str:
    return "T" if len(dtypes) > 1 else _ONNX_TYPES[dtypes[0]]


def _schema_attribute(entry: AttributeSpec) -> Any:
    kind = _ATTRIBUTE_TYPES[entry.kind]
    if entry.default is None:
        return onnx.defs.OpSchema.Attribute(entry.name, kind, required=True)
    default = onnx.helper.make_attribute(entry.name, entry.default)
    return onnx.defs.OpSchema.Attribute(entry.name, default)
