"""One attention layer of a plan, and every invariant that a layer alone can show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..documents import shown
from ..errors import PlanError
from ..op.spec import (
    BIT_WIDTHS,
    MASK_WORD_BITS,
    OP_VERSION,
    OP_VERSION_2,
    AffineRow,
    mask_words,
)
from . import checks
from .document import HeadRecord, LayerDocument
from .limits import MAX_BINS, MAX_HEAD_DIM, MAX_HEADS, MAX_MASK_BYTES
from .version_2 import check_dynamic_blocks, corrected_heads, dynamic_blocks, fine_plane, rotation

_POSITIVE_ROWS = (AffineRow.EQUALIZER, AffineRow.VALUE_SCALE)

# A recorded density may be rounded; it must still agree with the mask.
_DENSITY_SLACK = 1e-3


# eq=False: arrays have no single truth value; compare plans by `content_hash`.
@dataclass(frozen=True, eq=False)
class LayerPlan:
    """One attention layer. H heads, Hk key/value heads, D channels, T bins, NQ query blocks,
    W words of a mask row; arrays are read-only.

    Args:
        name: module path, such as "blocks.0.attn1".
        head_order: int32 [H], each head's row of `ParoPlan.orders`; equal within a GQA group.
        block_mask: int32 [T, H, NQ, W], packed as `paro_trt.op.mask` says; no row is empty.
        channel_affine: float32 [4, Hk, D]: key mean, equalizer > 0, value mean, value scale > 0.
        qk_bits: 16, 8 or 4.
        pv_bits: 16, 8 or 4.
        bits_reason: why these bits.
        heads: one record for each of H heads.
        fine_mask: None, or int32 as block_mask: key blocks off block_mask with four summary
            tokens instead of one. Bits of blocks on block_mask are cleared.
        corrected_heads: None, or int32 [H]: 1 where rows get what their mean query lacks.
        dynamic_blocks: None, or int32 [T, H]: exact blocks more that each query block chooses at
            run time, at most NK.
        rotation: None, or int32 [Hk, D] where 4-bit query x key is smoothed: -1 and 1, the signs
            of a head's rotation, or zeros where a head is not rotated.

    The last four are of version 2; one that changes nothing becomes None.

    Raises:
        PlanError: any of this does not hold.
    """

    name: str
    head_order: NDArray[np.int32]
    block_mask: NDArray[np.int32]
    channel_affine: NDArray[np.float32]
    qk_bits: int
    pv_bits: int
    bits_reason: str
    heads: tuple[HeadRecord, ...]
    fine_mask: NDArray[np.int32] | None = None
    corrected_heads: NDArray[np.int32] | None = None
    dynamic_blocks: NDArray[np.int32] | None = None
    rotation: NDArray[np.int32] | None = None

    def __post_init__(self) -> None:
        name = checks.label("layer name", self.name)
        with checks.within(name):
            head_order = checks.array("head_order", self.head_order, np.int32, 1)
            heads = checks.items("heads", self.heads)
            count = checks.integer("head_order length", len(head_order), 1, MAX_HEADS)
            if len(heads) != count:
                raise PlanError("heads", expected=f"{count} records", actual=f"{len(heads)}")
            affine = _channel_affine(self.channel_affine, count)
            _groups_share_orders(head_order, affine.shape[1])
            mask = _block_mask(self.block_mask, count)
            _heads_have_bins(heads, mask.shape[0])
            qk_bits = checks.choice("qk_bits", self.qk_bits, BIT_WIDTHS)
            plain = {
                "name": name,
                "head_order": head_order,
                "block_mask": mask,
                "channel_affine": affine,
                "qk_bits": qk_bits,
                "pv_bits": checks.choice("pv_bits", self.pv_bits, BIT_WIDTHS),
                "bits_reason": checks.text("bits_reason", self.bits_reason),
                "heads": heads,
                "fine_mask": fine_plane(self.fine_mask, mask),
                "corrected_heads": corrected_heads(self.corrected_heads, count),
                "dynamic_blocks": dynamic_blocks(self.dynamic_blocks, mask.shape[0], count),
                "rotation": rotation(self.rotation, affine.shape[1], affine.shape[2], qk_bits),
            }
        for field, value in plain.items():
            object.__setattr__(self, field, value)

    def attended_blocks(self) -> NDArray[np.int64]:
        """Blocks on the mask: int64 [T, H]."""
        return _set_bits(self.block_mask)

    def fine_blocks(self) -> NDArray[np.int64]:
        """Blocks with four summary tokens: int64 [T, H]. Where routing makes one of them exact,
        it is still counted."""
        return (
            np.zeros_like(_set_bits(self.block_mask))
            if self.fine_mask is None
            else _set_bits(self.fine_mask)
        )

    @property
    def version(self) -> int:
        """The first version of the op, and of the format, that has what the layer uses."""
        return OP_VERSION_2 if self.mixes or self.rotation is not None else OP_VERSION

    @property
    def mixes(self) -> bool:
        """Whether the layer has fine blocks, corrected heads or blocks chosen at run time."""
        used = (self.fine_mask, self.corrected_heads, self.dynamic_blocks)
        return any(tensor is not None for tensor in used)

    @property
    def rotated_heads(self) -> int:
        """Key/value heads that smoothing rotates."""
        return 0 if self.rotation is None else int((self.rotation[:, 0] != 0).sum())

    def document(self) -> LayerDocument:
        """Everything but the arrays."""
        return LayerDocument(
            name=self.name,
            qk_bits=self.qk_bits,
            pv_bits=self.pv_bits,
            bits_reason=self.bits_reason,
            heads=self.heads,
            fine_summaries=self.fine_mask is not None,
            mean_correction=self.corrected_heads is not None,
            routing=self.dynamic_blocks is not None,
            smoothing=self.rotation is not None,
        )

    def check_fits(
        self, *, order_names: Sequence[str], bins: int, query_blocks: int, key_blocks: int
    ) -> None:
        """Check the layer against the plan that it is part of. Raises PlanError."""
        with checks.within(self.name):
            words = mask_words(key_blocks)
            wanted = (bins, len(self.heads), query_blocks, words)
            checks.shape("block_mask", self.block_mask, wanted, "[T, H, NQ, W]")
            _no_padding_bits("block_mask", self.block_mask, key_blocks)
            if self.fine_mask is not None:
                _no_padding_bits("fine_mask", self.fine_mask, key_blocks)
            if self.dynamic_blocks is not None:
                check_dynamic_blocks(self.dynamic_blocks, key_blocks)
            self._check_orders(order_names)
            self._check_density(query_blocks * key_blocks)

    def _check_orders(self, order_names: Sequence[str]) -> None:
        for head, row in enumerate(self.head_order.tolist()):
            if not 0 <= row < len(order_names):
                raise PlanError(
                    f"head_order[{head}]",
                    expected=f"a row of orders in [0, {len(order_names) - 1}]",
                    actual=f"{row}",
                )
            if self.heads[head].order != order_names[row]:
                raise PlanError(
                    f"heads[{head}].order",
                    expected=f"{order_names[row]!r}, which head_order says",
                    actual=repr(self.heads[head].order),
                )

    def _check_density(self, blocks: int) -> None:
        density = self.attended_blocks() / blocks
        recorded = np.array([head.density for head in self.heads]).T
        wrong = np.argwhere(np.abs(density - recorded) > _DENSITY_SLACK)
        if len(wrong):
            t, head = (int(i) for i in wrong[0])
            raise PlanError(
                f"heads[{head}].density[{t}]",
                expected=f"{density[t, head]:.6g}, which block_mask says",
                actual=f"{recorded[t, head]:.6g}",
            )


def _set_bits(words: NDArray[np.int32]) -> NDArray[np.int64]:
    """Bits of each bin and head: int64 [T, H]."""
    return np.asarray(np.bitwise_count(words.view(np.uint32)).sum(axis=(2, 3), dtype=np.int64))


def _no_padding_bits(subject: str, words: NDArray[np.int32], key_blocks: int) -> None:
    spare = words.shape[-1] * MASK_WORD_BITS - key_blocks
    last = words[..., -1].view(np.uint32)
    if spare and (last >> np.uint32(MASK_WORD_BITS - spare)).any():
        raise PlanError(
            subject,
            expected=f"no bit past the {key_blocks} key blocks",
            actual="a padding bit set",
        )


def check_mask_bytes(bins: int, heads: int, query_blocks: int, key_blocks: int) -> None:
    """Refuse masks that take more bytes than a plan may have.

    Args:
        bins: T.
        heads: of all layers; those of a layer with fine blocks count twice.
        query_blocks: NQ.
        key_blocks: NK.
    """
    size = bins * heads * query_blocks * mask_words(key_blocks) * 4
    if size > MAX_MASK_BYTES:
        raise PlanError(
            "block_mask",
            expected=f"at most {MAX_MASK_BYTES} bytes of packed masks in the plan",
            actual=f"{size}",
            remedy="use fewer bins or larger blocks",
        )


def _channel_affine(value: object, heads: int) -> NDArray[np.float32]:
    subject = "channel_affine"
    affine = checks.array(subject, value, np.float32, 3)
    rows, kv_heads, head_dim = affine.shape
    if rows != len(AffineRow) or kv_heads < 1 or not 1 <= head_dim <= MAX_HEAD_DIM:
        raise PlanError(
            subject,
            expected=f"shape [4, Hk, D] with Hk >= 1 and D in 1..{MAX_HEAD_DIM}",
            actual=f"{list(affine.shape)}",
        )
    if heads % kv_heads:
        raise PlanError(
            subject, expected=f"Hk that divides the {heads} heads", actual=f"Hk = {kv_heads}"
        )
    for row in AffineRow:
        values = affine[row]
        positive = row in _POSITIVE_ROWS
        bad = ~np.isfinite(values) | ((values <= 0) if positive else False)
        if bad.any():
            head, channel = (int(i) for i in np.argwhere(bad)[0])
            raise PlanError(
                f"{subject}[{row.value}] ({row.name.lower().replace('_', ' ')})",
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
            actual=f"{shown(groups[group].tolist())} for key/value head {group}",
        )


def _block_mask(value: object, heads: int) -> NDArray[np.int32]:
    mask = checks.array("block_mask", value, np.int32, 4)
    if mask.shape[1] != heads or not 1 <= mask.shape[0] <= MAX_BINS or 0 in mask.shape:
        raise PlanError(
            "block_mask",
            expected=f"shape [T, H, NQ, W] with T in 1..{MAX_BINS} and H = {heads}",
            actual=f"{list(mask.shape)}",
        )
    empty = ~mask.any(axis=-1)
    if empty.any():
        t, head, row = (int(i) for i in np.argwhere(empty)[0])
        raise PlanError(
            "block_mask",
            expected="at least one key block for every query block",
            actual=f"an empty row at bin {t}, head {head}, query block {row}",
        )
    return mask


def _heads_have_bins(heads: Sequence[object], bins: int) -> None:
    for i, head in enumerate(heads):
        checks.of_type(f"heads[{i}]", head, HeadRecord)
        assert isinstance(head, HeadRecord)
        if len(head.density) != bins:
            raise PlanError(
                f"heads[{i}]", expected=f"figures for {bins} bins", actual=f"{len(head.density)}"
            )
