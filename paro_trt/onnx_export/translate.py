"""Translates the torch op `paro::attention` to the ONNX node PAROAttention."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import onnx
import torch

from ..op import api as _registers_the_op  # noqa: F401
from ..op.spec import ATTRIBUTES, DOMAIN, INPUTS, OP_TYPE, OP_VERSION, PLUGIN_NAMESPACE
from ..op.spec import PLUGIN_VERSION as VERSION

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
    fine_mask: Any,  # noqa: ARG001 (version 2 has a node of its own)
    corrected_heads: Any,  # noqa: ARG001
    dynamic_blocks: Any,  # noqa: ARG001
    scale: float,
    block_q: int,
    block_k: int,
    qk_bits: int,
    pv_bits: int,
    pool_dropped: int,
    impl: str,  # noqa: ARG001 (who computes is the runtime's choice)
) -> Any:
    """Emit the node, with every attribute written out.

    TensorRT prefers its plugin to the function in the file only if the node carries
    `plugin_namespace`.
    """
    return _operator()(
        query, key, value, token_order, head_order, block_mask, tile_order, channel_affine,
        mask_bin, key_length, scale=scale, block_q=block_q, block_k=block_k, qk_bits=qk_bits,
        pv_bits=pv_bits, pool_dropped=pool_dropped, plugin_version=VERSION,
        plugin_namespace=PLUGIN_NAMESPACE,
    )  # fmt: skip


@cache
def _operator() -> Any:
    from onnxscript.values import Op, Opset

    return Op(Opset(DOMAIN, OP_VERSION), OP_TYPE, operator_schema())


def operator_schema() -> onnx.defs.OpSchema:
    """The op's ONNX schema, from the tables of `op.spec`."""
    return onnx.defs.OpSchema(
        OP_TYPE,
        DOMAIN,
        OP_VERSION,
        inputs=[
            onnx.defs.OpSchema.FormalParameter(entry.name, _type_of(entry.dtypes))
            for entry in INPUTS
        ],
        outputs=[onnx.defs.OpSchema.FormalParameter("output", "T")],
        type_constraints=[("T", [_ONNX_TYPES[name] for name in INPUTS[0].dtypes], "")],
        attributes=[_schema_attribute(entry.name) for entry in ATTRIBUTES],
    )


def _type_of(dtypes: tuple[str, ...]) -> str:
    return "T" if len(dtypes) > 1 else _ONNX_TYPES[dtypes[0]]


def _schema_attribute(name: str) -> Any:
    entry = next(entry for entry in ATTRIBUTES if entry.name == name)
    kind = _ATTRIBUTE_TYPES[entry.kind]
    if entry.default is None:
        return onnx.defs.OpSchema.Attribute(name, kind, required=True)
    return onnx.defs.OpSchema.Attribute(name, onnx.helper.make_attribute(name, entry.default))
