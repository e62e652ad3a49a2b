"""The plan in memory: calibration makes it; export, engines and runtimes read it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..documents import canonical_json
from ..errors import ArgumentError, PlanError
from ..op.spec import BLOCK_SIZES, block_count
from . import checks
from .bins import check_bin_boundaries, mask_bins
from .document import (
    VERSION_2_FIELDS,
    CalibrationRecord,
    Grid,
    ModelIdentity,
    PlanDocument,
    TextLayout,
    TextPosition,
)
from .layer import LayerPlan, check_mask_bytes
from .limits import MAX_LAYERS, MAX_ORDERS, MAX_TOKENS


# eq=False: arrays have no single truth value; compare plans by `content_hash`.
@dataclass(frozen=True, eq=False)
class ParoPlan:
    """Orders, masks and quantization of every attention layer of one model at one token grid.

    S tokens, O orders, T bins. Compare plans by `content_hash()`.

    Args:
        orders: int32 [O, S], read-only: position j of the sequence in order o holds token
            orders[o, j]. Text tokens keep their place and sequence.
        order_names: O unique names.
        layers: at least one, with unique names.
        model: the model this plan is for.
        grid: visual tokens of a sample.
        text: text tokens in the joint sequence.
        block_q: tokens in a query block, 64 or 128.
        block_k: tokens in a key block, 64 or 128.
        pool_dropped: key blocks off the mask join the softmax as one summary token each.
        bin_boundaries: T - 1 strictly descending timesteps within (0, 1000), where 1000 is pure
            noise: bin 0 is timestep >= boundaries[0], bin t is
            boundaries[t-1] > timestep >= boundaries[t].
        calibration: how the plan was made.

    Raises:
        PlanError: any of this does not hold, or a layer does not fit the rest.
    """

    orders: NDArray[np.int32]
    order_names: tuple[str, ...]
    layers: tuple[LayerPlan, ...]
    model: ModelIdentity
    grid: Grid
    text: TextLayout
    block_q: int
    block_k: int
    pool_dropped: bool
    bin_boundaries: tuple[float, ...]
    calibration: CalibrationRecord

    def __post_init__(self) -> None:
        for name, kind in (
            ("model", ModelIdentity),
            ("grid", Grid),
            ("text", TextLayout),
            ("calibration", CalibrationRecord),
        ):
            checks.of_type(name, getattr(self, name), kind)
        tokens = checks.integer("grid with text", self.tokens, 1, MAX_TOKENS)
        names = _order_names(self.order_names)
        plain = {
            "orders": _orders(self.orders, names, tokens, self.text),
            "order_names": names,
            "layers": _layers(self.layers),
            "block_q": checks.choice("block_q", self.block_q, BLOCK_SIZES),
            "block_k": checks.choice("block_k", self.block_k, BLOCK_SIZES),
            "pool_dropped": checks.flag("pool_dropped", self.pool_dropped),
            "bin_boundaries": check_bin_boundaries(self.bin_boundaries),
        }
        for field, value in plain.items():
            object.__setattr__(self, field, value)
        planes = sum(
            len(layer.heads) * (1 if layer.fine_mask is None else 2) for layer in self.layers
        )
        check_mask_bytes(self.bins, planes, self.query_blocks, self.key_blocks)
        for i, layer in enumerate(self.layers):
            with checks.within(f"layers.{i}"):
                layer.check_fits(
                    order_names=self.order_names,
                    bins=self.bins,
                    query_blocks=self.query_blocks,
                    key_blocks=self.key_blocks,
                )
        self._check_pooling()

    def _check_pooling(self) -> None:
        for i, layer in enumerate(self.layers):
            if layer.fine_mask is not None and not self.pool_dropped:
                raise PlanError(
                    f"layers.{i}: {layer.name}: fine_mask",
                    expected="none where pool_dropped is false",
                    actual="fine blocks",
                    remedy="fine blocks need the summary tokens of the others",
                )

    @property
    def version(self) -> int:
        """The first version of the format, and of the op, that has what the plan uses."""
        return max(layer.version for layer in self.layers)

    @property
    def mixes(self) -> bool:
        """Whether any layer has fine blocks, corrected heads or blocks chosen at run time."""
        return any(layer.mixes for layer in self.layers)

    @property
    def tokens(self) -> int:
        """S: tokens of the joint sequence."""
        return self.grid.tokens + self.text.count

    @property
    def bins(self) -> int:
        """T: intervals of the denoising schedule, each with its own masks."""
        return len(self.bin_boundaries) + 1

    @property
    def query_blocks(self) -> int:
        """NQ."""
        return block_count(self.tokens, self.block_q)

    @property
    def key_blocks(self) -> int:
        """NK."""
        return block_count(self.tokens, self.block_k)

    def bin_of(self, timestep: float) -> int:
        """The bin that serves a timestep in [0, 1000], in the model's units.

        Raises:
            ArgumentError: the timestep is not finite or not in the schedule.
        """
        return int(mask_bins(timestep, self.bin_boundaries))

    def density(self) -> float:
        """Attended blocks / all blocks, over every layer, bin and head."""
        attended = sum(int(layer.attended_blocks().sum()) for layer in self.layers)
        heads = sum(len(layer.heads) for layer in self.layers)
        return attended / (heads * self.bins * self.query_blocks * self.key_blocks)

    def layer(self, name: str) -> LayerPlan:
        """The layer of this module path.

        Raises:
            ArgumentError: no layer has this name; the message lists the names.
        """
        for layer in self.layers:
            if layer.name == name:
                return layer
        names = [layer.name for layer in self.layers]
        some = ", ".join(names[:8]) + (f", ... ({len(names)} in all)" if len(names) > 8 else "")
        raise ArgumentError("layer", expected=f"one of {some}", actual=repr(name))

    def content_hash(self) -> str:
        """SHA-256, lower-case hex, over all content; the same before saving and after loading."""
        digest = hashlib.sha256(canonical_json(describe(self)))
        digest.update(_little_endian(self.orders, "<i4"))
        for layer in self.layers:
            digest.update(_little_endian(layer.head_order, "<i4"))
            digest.update(_little_endian(layer.block_mask, "<i4"))
            digest.update(_little_endian(layer.channel_affine, "<f4"))
            for name in VERSION_2_FIELDS.values():
                if (tensor := getattr(layer, name)) is not None:
                    digest.update(_little_endian(tensor, "<i4"))
        return digest.hexdigest()


def describe(plan: ParoPlan) -> dict[str, Any]:
    """The document of a plan without its content hash, as JSON values."""
    document = PlanDocument(
        format_version=plan.version,
        content_hash="",
        model=plan.model,
        grid=plan.grid,
        text=plan.text,
        block_q=plan.block_q,
        block_k=plan.block_k,
        pool_dropped=plan.pool_dropped,
        bin_boundaries=plan.bin_boundaries,
        order_names=plan.order_names,
        layers=tuple(layer.document() for layer in plan.layers),
        calibration=plan.calibration,
    )
    values: dict[str, Any] = msgspec.to_builtins(document)
    del values["content_hash"]
    return values


def _little_endian(array: NDArray[Any], dtype: str) -> memoryview:
    return array.astype(dtype, copy=False).data


def _order_names(value: object) -> tuple[str, ...]:
    names = checks.items("order_names", value)
    checks.integer("order_names length", len(names), 1, MAX_ORDERS)
    for i, name in enumerate(names):
        checks.label(f"order_names[{i}]", name)
    checks.unique("order_names", names)
    return names


def _layers(value: object) -> tuple[LayerPlan, ...]:
    layers = checks.items("layers", value)
    checks.integer("layers length", len(layers), 1, MAX_LAYERS)
    for i, layer in enumerate(layers):
        checks.of_type(f"layers.{i}", layer, LayerPlan)
    checks.unique("layers", [layer.name for layer in layers])
    return layers


def _orders(
    value: object, names: tuple[str, ...], tokens: int, text: TextLayout
) -> NDArray[np.int32]:
    orders = checks.array("orders", value, np.int32, 2)
    checks.shape("orders", orders, (len(names), tokens), "[O, S]")
    for name, order in zip(names, orders, strict=True):
        with checks.within("orders"):
            _permutation(name, order)
            _text_in_place(name, order, text)
    return orders


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
    wanted = np.arange(first, first + text.count, dtype=np.int32)
    wrong = order[first : first + text.count] != wanted
    if wrong.any():
        i = int(wrong.argmax())
        raise PlanError(
            name,
            expected=f"text token {wanted[i]} at position {first + i} (text {text.position.value})",
            actual=f"token {order[first + i]}",
        )
