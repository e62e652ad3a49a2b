"""Every invariant of a plan, checked when it is made and therefore when it is loaded.

The functions return the checked fields in their plain types; subjects of errors are field names,
put behind the layer's place in the plan.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import PlanError
from ..op.spec import BIT_WIDTHS, BLOCK_SIZES, MASK_WORD_BITS, mask_words
from . import checks
from .limits import (
    MAX_BINS,
    MAX_HEAD_DIM,
    MAX_HEADS,
    MAX_LAYERS,
    MAX_MASK_BYTES,
    MAX_ORDERS,
    MAX_TIMESTEP,
    MAX_TOKENS,
)
from .records import CalibrationRecord, Grid, HeadRecord, ModelIdentity, TextLayout, TextPosition

if TYPE_CHECKING:
    from .plan import LayerPlan, ParoPlan

_AFFINE_ROWS = ("key mean", "query-key equalizer", "value mean", "value scale")
_POSITIVE_ROWS = (1, 3)

# A head's recorded density may be rounded for reading, not wrong.
_DENSITY_SLACK = 1e-3


def layer_fields(layer: LayerPlan) -> dict[str, Any]:
    """Check what a layer alone can show: types, shapes that agree, values in range."""
    name = checks.label("layer name", layer.name)
    with checks.within(name):
        head_order = checks.array("head_order", layer.head_order, np.int32, 1)
        heads = checks.items("heads", layer.heads)
        count = checks.integer("head_order length", len(head_order), 1, MAX_HEADS)
        if len(heads) != count:
            raise PlanError("heads", expected=f"{count} records", actual=f"{len(heads)}")
        affine = _channel_affine(layer.channel_affine, count)
        _groups_share_orders(head_order, affine.shape[1])
        mask = checks.array("block_mask", layer.block_mask, np.int32, 4)
        if mask.shape[1] != count or not 1 <= mask.shape[0] <= MAX_BINS or 0 in mask.shape:
            raise PlanError(
                "block_mask",
                expected=f"shape [T, H, NQ, W] with T in 1..{MAX_BINS} and H = {count}",
                actual=f"{list(mask.shape)}",
            )
        _no_empty_row(mask)
        for i, head in enumerate(heads):
            _of_type(f"heads[{i}]", head, HeadRecord)
            if len(head.density) != mask.shape[0]:
                raise PlanError(
                    f"heads[{i}]",
                    expected=f"figures for {mask.shape[0]} bins",
                    actual=f"{len(head.density)}",
                )
        return {
            "name": name,
            "head_order": head_order,
            "block_mask": mask,
            "channel_affine": affine,
            "qk_bits": checks.choice("qk_bits", layer.qk_bits, BIT_WIDTHS),
            "pv_bits": checks.choice("pv_bits", layer.pv_bits, BIT_WIDTHS),
            "bits_reason": checks.text("bits_reason", layer.bits_reason),
            "heads": heads,
        }


def plan_fields(plan: ParoPlan) -> dict[str, Any]:
    """Check everything of a plan but how its layers fit it."""
    _of_type("model", plan.model, ModelIdentity)
    _of_type("grid", plan.grid, Grid)
    _of_type("text", plan.text, TextLayout)
    _of_type("calibration", plan.calibration, CalibrationRecord)
    tokens = checks.integer("grid with text", plan.tokens, 1, MAX_TOKENS)
    names = checks.items("order_names", plan.order_names)
    checks.integer("order_names length", len(names), 1, MAX_ORDERS)
    for i, name in enumerate(names):
        checks.label(f"order_names[{i}]", name)
    checks.unique("order_names", names)
    orders = checks.array("orders", plan.orders, np.int32, 2)
    checks.shape("orders", orders, (len(names), tokens), "[O, S]")
    for name, order in zip(names, orders, strict=True):
        with checks.within("orders"):
            _permutation(name, order)
            _text_in_place(name, order, plan.text)
    layers = checks.items("layers", plan.layers)
    checks.integer("layers length", len(layers), 1, MAX_LAYERS)
    return {
        "orders": orders,
        "order_names": names,
        "layers": layers,
        "block_q": checks.choice("block_q", plan.block_q, BLOCK_SIZES),
        "block_k": checks.choice("block_k", plan.block_k, BLOCK_SIZES),
        "pool_dropped": checks.flag("pool_dropped", plan.pool_dropped),
        "bin_boundaries": bin_boundaries(plan.bin_boundaries),
    }


def layers_fit(plan: ParoPlan) -> None:
    """Check each layer against the plan's orders, blocks and bins."""
    from .plan import LayerPlan  # the layer's own module checks itself with this one

    for i, layer in enumerate(plan.layers):
        _of_type(f"layers.{i}", layer, LayerPlan)
    checks.unique("layers", [layer.name for layer in plan.layers])
    mask_bytes(
        plan.bins, sum(len(x.heads) for x in plan.layers), plan.query_blocks, plan.key_blocks
    )
    for i, layer in enumerate(plan.layers):
        with checks.within(f"layers.{i}"), checks.within(layer.name):
            _layer_fits(layer, plan)


def bin_boundaries(value: object) -> tuple[float, ...]:
    """Strictly descending timesteps within (0, 1000), one fewer than there are bins."""
    subject = "bin_boundaries"
    boundaries = checks.items(subject, value)
    checks.integer(f"{subject} length", len(boundaries), 0, MAX_BINS - 1)
    result = tuple(checks.number(subject, item) for item in boundaries)
    fenced = (MAX_TIMESTEP, *result, 0.0)
    if any(high <= low for high, low in pairwise(fenced)):
        raise PlanError(
            subject,
            expected=f"strictly descending timesteps within (0, {MAX_TIMESTEP:g})",
            actual=checks.shown(list(result)),
        )
    return result


def mask_bytes(bins: int, heads: int, query_blocks: int, key_blocks: int) -> int:
    """Bytes of the packed masks of `heads` heads, refused beyond the limit."""
    size = bins * heads * query_blocks * mask_words(key_blocks) * 4
    if size > MAX_MASK_BYTES:
        raise PlanError(
            "block_mask",
            expected=f"at most {MAX_MASK_BYTES} bytes of packed masks in the plan",
            actual=f"{size}",
            remedy="use fewer bins or larger blocks",
        )
    return size


def attended_blocks(layer: LayerPlan) -> NDArray[np.int64]:
    """Blocks on the mask: int64 [T, H]."""
    words = layer.block_mask.view(np.uint32)
    return np.asarray(np.bitwise_count(words).sum(axis=(2, 3), dtype=np.int64))


def _of_type(subject: str, value: object, wanted: type) -> None:
    if not isinstance(value, wanted):
        raise PlanError(subject, expected=f"a {wanted.__name__}", actual=checks.shown(value))


def _channel_affine(value: object, heads: int) -> NDArray[np.float32]:
    subject = "channel_affine"
    affine = checks.array(subject, value, np.float32, 3)
    rows, kv_heads, head_dim = affine.shape
    if rows != len(_AFFINE_ROWS) or kv_heads < 1 or not 1 <= head_dim <= MAX_HEAD_DIM:
        raise PlanError(
            subject,
            expected=f"shape [4, Hk, D] with Hk >= 1 and D in 1..{MAX_HEAD_DIM}",
            actual=f"{list(affine.shape)}",
        )
    if heads % kv_heads:
        raise PlanError(
            subject, expected=f"Hk that divides the {heads} heads", actual=f"Hk = {kv_heads}"
        )
    for row, meaning in enumerate(_AFFINE_ROWS):
        values = affine[row]
        positive = row in _POSITIVE_ROWS
        bad = ~np.isfinite(values) | ((values <= 0) if positive else False)
        if bad.any():
            head, channel = (int(i) for i in np.argwhere(bad)[0])
            raise PlanError(
                f"{subject}[{row}] ({meaning})",
                expected="finite values > 0" if positive else "finite values",
                actual=f"{values[head, channel]} at head {head}, channel {channel}",
            )
    return affine


def _groups_share_orders(head_order: NDArray[np.int32], kv_heads: int) -> None:
    groups = head_order.reshape(kv_heads, -1)
    mixed = (groups != groups[:, :1]).any(axis=1)
    if mixed.any():
        group = int(mixed.argmax())
        raise PlanError(
            "head_order",
            expected="one order for all query heads of a key/value head",
            actual=f"{checks.shown(groups[group].tolist())} for key/value head {group}",
        )


def _no_empty_row(mask: NDArray[np.int32]) -> None:
    empty = ~mask.any(axis=-1)
    if empty.any():
        t, head, row = (int(i) for i in np.argwhere(empty)[0])
        raise PlanError(
            "block_mask",
            expected="at least one key block for every query block",
            actual=f"an empty row at bin {t}, head {head}, query block {row}",
        )


def _permutation(name: str, order: NDArray[np.int32]) -> None:
    tokens = len(order)
    if order.min() < 0 or order.max() >= tokens:
        position = int(((order < 0) | (order >= tokens)).argmax())
        actual = f"token {order[position]} at position {position}"
    else:
        counts = np.bincount(order, minlength=tokens)
        if (counts == 1).all():
            return
        token = int((counts != 1).argmax())
        actual = f"token {token} {counts[token]} times"
    raise PlanError(name, expected=f"a permutation of 0..{tokens - 1}", actual=actual)


def _text_in_place(name: str, order: NDArray[np.int32], text: TextLayout) -> None:
    if text.position is TextPosition.NONE:
        return
    first = 0 if text.position is TextPosition.FIRST else len(order) - text.count
    part = slice(first, first + text.count)
    wanted = np.arange(part.start, part.stop, dtype=np.int32)
    wrong = order[part] != wanted
    if wrong.any():
        i = int(wrong.argmax())
        raise PlanError(
            name,
            expected=f"text token {wanted[i]} at position {first + i} (text {text.position.value})",
            actual=f"token {order[first + i]}",
        )


def _layer_fits(layer: LayerPlan, plan: ParoPlan) -> None:
    heads, key_blocks = len(layer.heads), plan.key_blocks
    words = mask_words(key_blocks)
    wanted = (plan.bins, heads, plan.query_blocks, words)
    checks.shape("block_mask", layer.block_mask, wanted, "[T, H, NQ, W]")
    spare = words * MASK_WORD_BITS - key_blocks
    last = layer.block_mask[..., -1].view(np.uint32)
    if spare and (last >> np.uint32(MASK_WORD_BITS - spare)).any():
        raise PlanError(
            "block_mask",
            expected=f"no bit past the {key_blocks} key blocks",
            actual="a padding bit set",
        )
    for head, row in enumerate(layer.head_order.tolist()):
        if not 0 <= row < len(plan.order_names):
            raise PlanError(
                f"head_order[{head}]",
                expected=f"a row of orders in [0, {len(plan.order_names) - 1}]",
                actual=f"{row}",
            )
        if layer.heads[head].order != plan.order_names[row]:
            raise PlanError(
                f"heads[{head}].order",
                expected=f"{plan.order_names[row]!r}, which head_order says",
                actual=repr(layer.heads[head].order),
            )
    density = attended_blocks(layer) / (plan.query_blocks * key_blocks)
    recorded = np.array([head.density for head in layer.heads]).T
    wrong = np.argwhere(np.abs(density - recorded) > _DENSITY_SLACK)
    if len(wrong):
        t, head = (int(i) for i in wrong[0])
        raise PlanError(
            f"heads[{head}].density[{t}]",
            expected=f"{density[t, head]:.6g}, which block_mask says",
            actual=f"{recorded[t, head]:.6g}",
        )
