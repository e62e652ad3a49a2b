"""Plans to and from `*.paro.safetensors`. FORMAT.md in this folder is normative."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from ..documents import canonical_json, shown
from ..errors import PlanError
from ..files import atomic_write
from ..op.spec import BLOCK_SIZES, block_count, mask_words
from . import checks
from .bins import check_bin_boundaries
from .container import METADATA_KEY, Container, open_container
from .document import VERSION_2_FIELDS, LayerDocument, PlanDocument, parse_document
from .layer import LayerPlan, check_mask_bytes
from .limits import MAX_HEADER_BYTES, MAX_ORDERS, MAX_TOKENS
from .mask_codec import decode_fine_mask, decode_mask, encode_fine_mask, encode_mask
from .plan import ParoPlan, describe


def save_plan(plan: ParoPlan, path: str | os.PathLike[str]) -> None:
    """Write a plan. A failure leaves no partial file.

    Compressing the masks of a 14-billion-parameter video model takes a minute or two on two cores.

    Args:
        plan: what to write.
        path: the file, usually named `*.paro.safetensors`; its directory must exist.

    Raises:
        ParoError: the file cannot be written, or the records do not fit a file's header.
    """
    target = Path(path)
    document = canonical_json({**describe(plan), "content_hash": plan.content_hash()}).decode()
    tensors: dict[str, NDArray] = {"orders": plan.orders}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        streams = pool.map(lambda layer: _streams(layer, plan.key_blocks), plan.layers)
        for i, (layer, of_layer) in enumerate(zip(plan.layers, streams, strict=True)):
            tensors[f"layers.{i}.head_order"] = layer.head_order
            tensors[f"layers.{i}.channel_affine"] = layer.channel_affine
            for name in ("corrected_heads", "dynamic_blocks", "rotation"):
                if (tensor := getattr(layer, name)) is not None:
                    tensors[f"layers.{i}.{name}"] = tensor
            for name, stream in of_layer.items():
                tensors[f"layers.{i}.{name}"] = np.frombuffer(stream, dtype=np.uint8)
    content = safetensors.numpy.save(tensors, metadata={METADATA_KEY: document})
    header_bytes = int.from_bytes(content[:8], "little")
    if header_bytes > MAX_HEADER_BYTES:
        raise PlanError(
            f"{target}: header",
            expected=f"at most {MAX_HEADER_BYTES} bytes",
            actual=f"{header_bytes}",
            remedy="shorten the prompts and notes",
        )
    with atomic_write(target) as file:
        file.write(content)


def _streams(layer: LayerPlan, key_blocks: int) -> dict[str, bytes]:
    """The layer's compressed planes by name."""
    streams = {"block_mask": encode_mask(layer.block_mask)}
    if layer.fine_mask is not None:
        streams["fine_mask"] = encode_fine_mask(layer.fine_mask, layer.block_mask, key_blocks)
    return streams


def load_plan(path: str | os.PathLike[str]) -> ParoPlan:
    """Read a plan and check every invariant.

    Safe on hostile files: memory is bounded by the file's size, the limits in `limits.py` and
    shapes already checked.

    Raises:
        PlanError: the file is missing, unreadable, damaged, of a newer version or no plan. The
            message names the file and the tensor or field.
    """
    with open_container(Path(path)) as container:
        document = parse_document(container.document)
        shapes = _check_tensors(container, document)
        plan = ParoPlan(
            orders=container.read("orders"),
            order_names=document.order_names,
            layers=tuple(
                _read_layer(container, i, layer, shape)
                for i, (layer, shape) in enumerate(zip(document.layers, shapes, strict=True))
            ),
            model=document.model,
            grid=document.grid,
            text=document.text,
            block_q=document.block_q,
            block_k=document.block_k,
            pool_dropped=document.pool_dropped,
            bin_boundaries=document.bin_boundaries,
            calibration=document.calibration,
        )
        if plan.content_hash() != document.content_hash:
            raise PlanError(
                "content_hash",
                expected=document.content_hash,
                actual=plan.content_hash(),
                remedy="the file was altered or damaged; copy it again",
            )
        return plan


class _MaskShape(NamedTuple):
    """The blocks of a layer's mask."""

    bins: int
    heads: int
    query_blocks: int
    key_blocks: int


def _check_tensors(container: Container, document: PlanDocument) -> list[_MaskShape]:
    """Check the tensors' names, dtypes and shapes; the shape of each layer's mask."""
    tokens = checks.integer(
        "grid with text", document.grid.tokens + document.text.count, 1, MAX_TOKENS
    )
    bins = len(check_bin_boundaries(document.bin_boundaries)) + 1
    query_blocks = block_count(tokens, checks.choice("block_q", document.block_q, BLOCK_SIZES))
    key_blocks = block_count(tokens, checks.choice("block_k", document.block_k, BLOCK_SIZES))
    orders = checks.integer("order_names length", len(document.order_names), 1, MAX_ORDERS)
    container.check("orders", "I32", (orders, tokens), "[O, S]")

    known = {"orders"}
    for i, layer in enumerate(document.layers):
        prefix = f"layers.{i}"
        container.check(f"{prefix}.head_order", "I32", (len(layer.heads),), "[H]")
        container.check(f"{prefix}.block_mask", "U8", (None,), "[bytes]")
        container.check(f"{prefix}.channel_affine", "F32", (4, None, None), "[4, Hk, D]")
        known |= {f"{prefix}.{part}" for part in ("head_order", "block_mask", "channel_affine")}
        known |= _check_version_2(container, prefix, layer, bins)
    _refuse_unknown(container.entries, known, document.format_version)

    planes = sum(len(layer.heads) * (1 + layer.fine_summaries) for layer in document.layers)
    check_mask_bytes(bins, planes, query_blocks, key_blocks)
    return [
        _MaskShape(bins, len(layer.heads), query_blocks, key_blocks) for layer in document.layers
    ]


def _check_version_2(
    container: Container, prefix: str, layer: LayerDocument, bins: int
) -> set[str]:
    """Check the tensors of version 2 that the layer has; their names."""
    heads = len(layer.heads)
    shapes = {
        "fine_mask": ("U8", (None,), "[bytes]"),
        "corrected_heads": ("I32", (heads,), "[H]"),
        "dynamic_blocks": ("I32", (bins, heads), "[T, H]"),
        "rotation": ("I32", container.entries[f"{prefix}.channel_affine"].shape[1:], "[Hk, D]"),
    }
    names = [tensor for field, tensor in VERSION_2_FIELDS.items() if getattr(layer, field)]
    for name in names:
        container.check(f"{prefix}.{name}", *shapes[name])
    return {f"{prefix}.{name}" for name in names}


def _refuse_unknown(entries: Mapping[str, object], known: set[str], version: int) -> None:
    if unknown := entries.keys() - known:
        name = min(unknown)
        raise PlanError(
            name if len(name) <= 64 and name.isprintable() else "tensor",
            expected=f"only tensors that FORMAT.md names, of format version {version} and of "
            "features that the layer has",
            actual=f"tensor {shown(name)}",
        )


def _read_layer(
    container: Container, index: int, layer: LayerDocument, shape: _MaskShape
) -> LayerPlan:
    prefix = f"layers.{index}"
    with checks.within(prefix):
        words = (*shape[:3], mask_words(shape.key_blocks))
        mask = decode_mask("block_mask", container.read_bytes(f"{prefix}.block_mask"), words)
        fine = None
        if layer.fine_summaries:
            stream = container.read_bytes(f"{prefix}.fine_mask")
            fine = decode_fine_mask("fine_mask", stream, mask, shape.key_blocks)
        read = LayerPlan(
            name=layer.name,
            head_order=container.read(f"{prefix}.head_order"),
            block_mask=mask,
            channel_affine=container.read(f"{prefix}.channel_affine"),
            qk_bits=layer.qk_bits,
            pv_bits=layer.pv_bits,
            bits_reason=layer.bits_reason,
            heads=layer.heads,
            fine_mask=fine,
            corrected_heads=container.read(f"{prefix}.corrected_heads")
            if layer.mean_correction
            else None,
            dynamic_blocks=container.read(f"{prefix}.dynamic_blocks") if layer.routing else None,
            rotation=container.read(f"{prefix}.rotation") if layer.smoothing else None,
        )
        _refuse_unused(read, layer)
        return read


def _refuse_unused(read: LayerPlan, document: LayerDocument) -> None:
    for field, tensor in VERSION_2_FIELDS.items():
        if getattr(document, field) and getattr(read, tensor) is None:
            raise PlanError(
                tensor,
                expected=f"a value other than 0, as {field} is true",
                actual="zeros",
            )
