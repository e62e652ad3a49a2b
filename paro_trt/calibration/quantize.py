"""Bit widths, channel affines and rotations, each judged by the error the op makes on captured
inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import Enum
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..op.quantization import ChannelAffine
from ..op.spec import AttentionConfig
from .inputs import LayerInputs
from .op_error import HeadExtras, PlannedHead, attended_rows, dense_rows, identity_affine
from .work import Contribution

LARGEST_FACTOR = 16.0
"""Bound on equalizer and value scale, either way: a dead channel must not ruin the others."""

VARIANTS = ((False, False), (True, False), (False, True), (True, True))
"""Channel affines tried for one product: with or without its mean, its factor. Identity first."""

ROTATION_SEED = 18
"""Of the signs that every layer tries; a plan records the signs themselves."""

ROTATION_GAIN = 0.05
"""Of the squared error that a rotation must take away: rotating takes time, and less is noise."""


class Product(str, Enum):
    """The two matrix products of attention, quantized apart."""

    QK = "qk"
    PV = "pv"


class QuantizationChoice(NamedTuple):
    """Decided for a layer.

    channel_affine: f32 [4, Hk, D]. reason: why these bits. added_error: f64 [Hk], squared
    relative error that integers add to the masked attention of each key head. rotation: int32
    [Hk, D] where 4-bit query x key is smoothed, see `LayerPlan`; else None.
    """

    channel_affine: NDArray[np.float32]
    qk_bits: int
    pv_bits: int
    reason: str
    added_error: NDArray[np.float64]
    rotation: NDArray[np.int32] | None = None


def channel_ranges(query: Tensor, key: Tensor, value: Tensor) -> Contribution:
    """Sums and extremes of each channel of query [S, H, D], key and value [S, Hk, D].

    `*_low` are maxima of the negated values, so that captures combine by the maximum alone. Each
    head is converted on its own: a layer's copies in FP64 would be larger than the layer.
    """
    tokens, kv_heads, channels = key.shape
    peak = query.abs().amax(dim=0).float().view(kv_heads, -1, channels).amax(dim=1)
    sums, maxima = {"tokens": np.array([float(tokens)])}, {"query_peak": _array(peak)}
    for name, tensor in (("key", key), ("value", value)):
        sums[f"{name}_sum"] = np.stack(
            [_array(tensor[:, head].double().sum(dim=0)) for head in range(kv_heads)]
        )
        maxima[f"{name}_high"] = _array(tensor.amax(dim=0).float())
        maxima[f"{name}_low"] = _array(-tensor.amin(dim=0).float())
    return Contribution(sums, maxima)


def product_affine(
    ranges: Mapping[str, NDArray[Any]], product: Product, with_mean: bool, with_factor: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Shift and factor f32 [Hk, D] of one product: (m, e) of QK or (n, c) of PV.

    m, n: means. e = sqrt(max|k - m| / max|q|), which gives query and key channels equal peaks
    (SmoothQuant, arXiv 2211.10438, at alpha 1/2); c = max|v - n|. Factors have geometric mean 1
    over the channels and are clamped to 1/LARGEST_FACTOR..LARGEST_FACTOR.
    """
    name = _tensor_of(product)
    mean = ranges[f"{name}_sum"] / ranges["tokens"]
    shift = mean if with_mean else np.zeros_like(mean)
    factor = np.ones_like(mean)
    if with_factor:
        peak = np.maximum(ranges[f"{name}_high"] - shift, ranges[f"{name}_low"] + shift)
        factor = np.maximum(peak, np.finfo(np.float32).tiny)
        if product is Product.QK:
            query_peak = np.maximum(ranges["query_peak"], np.finfo(np.float32).tiny)
            factor = np.sqrt(factor / query_peak)
        factor = factor / np.exp(np.log(factor).mean(axis=-1, keepdims=True))
        factor = factor.clip(1 / LARGEST_FACTOR, LARGEST_FACTOR)
    return shift.astype(np.float32), factor.astype(np.float32)


def tried_bits(asked: int) -> tuple[int, ...]:
    """Integer bit widths to measure where `asked` is the user's wish, narrowest first."""
    return {16: (), 8: (8,), 4: (4, 8)}[asked]


def random_signs(kv_heads: int, head_dim: int) -> NDArray[np.int32]:
    """The signs that a rotation of each head has: int32 [Hk, D] of -1 and 1, always the same."""
    drawn = np.random.default_rng(ROTATION_SEED).integers(0, 2, (kv_heads, head_dim))
    return (drawn * 2 - 1).astype(np.int32)


def can_rotate(head_dim: int) -> bool:
    """Whether a Hadamard transform of so many channels exists, without which no layer is
    smoothed."""
    return head_dim & (head_dim - 1) == 0


def is_smoothed(config: AttentionConfig, product: Product, bits: int, head_dim: int) -> bool:
    """Whether a product at this width is smoothed in a layer: query x key with 4 bits is where
    `config` asks for it and `can_rotate`."""
    asked_for = config.smoothing and product is Product.QK and bits == 4
    return asked_for and can_rotate(head_dim)


def measure_quantization(
    inputs: LayerInputs,
    orders: Tensor,
    masks: Tensor,
    ranges: Mapping[str, NDArray[Any]],
    config: AttentionConfig,
    query_blocks: Sequence[int],
    extras: Sequence[HeadExtras] | None = None,
) -> Contribution:
    """Squared errors of a layer's masked attention: what the mask costs, and what quantizing one
    product at a time adds.

    Args:
        inputs: of one capture; orders and masks are on their device.
        orders: int64 [H, S], the order of each head.
        masks: bool [H, NQ, NK].
        ranges: of the whole calibration, combined.
        config: block sizes and pooling; its bits are those asked for, and `smoothing` says
            whether query x key is smoothed where it has 4.
        query_blocks: where to measure.
        extras: what version 2 adds to each head; None: nothing.

    Returns:
        sums "mask_error" [H] of the unquantized op and "dense_energy" [H]; "energy" [Hk] of the
        unquantized op's output and, for each product and width, "qk8" and so on
        [len(VARIANTS), Hk]; of a smoothed product [2 len(VARIANTS), Hk], rotated ones last.
    """
    heads, kv_heads, head_dim = inputs.site.heads, inputs.site.kv_heads, inputs.site.head_dim
    group = heads // kv_heads
    tried = [
        (product, bits, is_smoothed(config, product, bits, head_dim))
        for product, asked in _asked(config)
        for bits in tried_bits(asked)
    ]
    errors = {
        f"{product.value}{bits}": np.zeros((len(VARIANTS) * (1 + smoothed), kv_heads))
        for product, bits, smoothed in tried
    }
    energy = np.zeros(kv_heads)
    mask_error, dense_energy = np.zeros((2, heads))
    plain = replace(config, qk_bits=16, pv_bits=16, smoothing=False)
    identity = identity_affine(head_dim, orders.device)
    signs = torch.from_numpy(random_signs(kv_heads, head_dim)).to(orders.device)
    for head in range(heads):
        of_head, kv_head = inputs.head(head), head // group
        of_version_2 = HeadExtras() if extras is None else extras[head]
        planned = PlannedHead(orders[head], masks[head], identity, *of_version_2)
        exact = attended_rows(of_head, planned, plain, query_blocks)
        dense = dense_rows(of_head, planned.order, config.block_q, query_blocks)
        mask_error[head], dense_energy[head] = _energy(exact - dense), _energy(dense)
        energy[kv_head] += _energy(exact)
        for product, bits, smoothed in tried:
            found = errors[f"{product.value}{bits}"]
            for variant in range(len(found)):
                rotated, kept = divmod(variant, len(VARIANTS))
                affine = _head_affine(ranges, product, VARIANTS[kept], kv_head, identity)
                rough = attended_rows(
                    of_head,
                    planned._replace(affine=affine, signs=signs[kv_head] if rotated else None),
                    replace(_with_bits(plain, product, bits), smoothing=smoothed),
                    query_blocks,
                )
                found[variant, kv_head] += _energy(rough - exact)
    totals = {"mask_error": mask_error, "dense_energy": dense_energy, "energy": energy}
    return Contribution({**totals, **errors})


def choose_quantization(
    measured: Mapping[str, NDArray[Any]],
    ranges: Mapping[str, NDArray[Any]],
    config: AttentionConfig,
    int4_max_error: float,
) -> QuantizationChoice:
    """Bits of a layer and, for each key head, the variant with the least measured error.

    The narrowest width asked for stands unless 4 bits add more than `int4_max_error` relative
    L2 error to the layer's attention; then it is 8. Ties keep the simpler variant. A head is
    rotated only where that takes away `ROTATION_GAIN` of its error.
    """
    rows: list[NDArray[np.float32]] = []
    bits, reasons = {}, []
    rotation = None
    energy = np.maximum(measured["energy"], 1e-300)
    added_error = np.zeros(len(energy))
    for product, asked in _asked(config):
        chosen, errors = 16, {}
        for width in tried_bits(asked):
            least = _least(measured[f"{product.value}{width}"])
            errors[width] = float(np.sqrt(least.sum() / energy.sum()))
        for width in reversed(tried_bits(asked)):
            if width != 4 or errors[width] <= int4_max_error:
                chosen = width
        bits[product] = chosen
        kv_heads, head_dim = ranges[f"{_tensor_of(product)}_sum"].shape
        best = np.zeros(kv_heads, dtype=np.int64)
        if chosen != 16:
            found = measured[f"{product.value}{chosen}"]
            best = _best(found)
            added_error += _least(found) / energy
        reason = _reason(product, asked, chosen, errors, int4_max_error)
        if is_smoothed(config, product, chosen, head_dim):
            rotated = best >= len(VARIANTS)
            rotation = random_signs(kv_heads, head_dim) * rotated[:, None].astype(np.int32)
            reason += f" (smoothed, {int(rotated.sum())} of {kv_heads} heads rotated)"
        reasons.append(reason)
        rows += _chosen_affine(ranges, product, best % len(VARIANTS))
    return QuantizationChoice(
        np.stack(rows), bits[Product.QK], bits[Product.PV], "; ".join(reasons), added_error,
        rotation,
    )  # fmt: skip


def _tensor_of(product: Product) -> str:
    """What a product's affine belongs to; begins names in `channel_ranges`."""
    return "key" if product is Product.QK else "value"


def _asked(config: AttentionConfig) -> tuple[tuple[Product, int], ...]:
    return (Product.QK, config.qk_bits), (Product.PV, config.pv_bits)


def _with_bits(config: AttentionConfig, product: Product, bits: int) -> AttentionConfig:
    if product is Product.QK:
        return replace(config, qk_bits=bits)
    return replace(config, pv_bits=bits)


def _head_affine(
    ranges: Mapping[str, NDArray[Any]],
    product: Product,
    kept: tuple[bool, bool],
    kv_head: int,
    identity: ChannelAffine,
) -> ChannelAffine:
    shift, factor = (
        torch.from_numpy(rows[kv_head]).to(identity.equalizer)
        for rows in product_affine(ranges, product, *kept)
    )
    if product is Product.QK:
        return identity._replace(key_mean=shift, equalizer=factor)
    return identity._replace(value_mean=shift, value_scale=factor)


def _best(errors: NDArray[Any]) -> NDArray[np.int64]:
    """The chosen variant of each key head, [Hk], of errors [variants, Hk]."""
    handicap = np.ones((len(errors), 1))
    handicap[len(VARIANTS) :] = 1.0 / (1.0 - ROTATION_GAIN)
    return np.asarray((errors * handicap).argmin(axis=0))


def _least(errors: NDArray[Any]) -> NDArray[np.float64]:
    """The errors of the chosen variants, [Hk]."""
    return np.asarray(np.take_along_axis(errors, _best(errors)[None], axis=0)[0])


def _chosen_affine(
    ranges: Mapping[str, NDArray[Any]], product: Product, variants: NDArray[np.int64]
) -> list[NDArray[np.float32]]:
    """Shift and factor, each head's by its index into `VARIANTS`."""
    shift, factor = product_affine(ranges, product, *VARIANTS[0])
    for kv_head, variant in enumerate(variants):
        tried = product_affine(ranges, product, *VARIANTS[variant])
        shift[kv_head], factor[kv_head] = tried[0][kv_head], tried[1][kv_head]
    return [shift, factor]


def _reason(
    product: Product, asked: int, chosen: int, errors: Mapping[int, float], limit: float
) -> str:
    name = product.value.upper()
    if asked == 16:
        return f"{name} 16: asked for"
    if chosen == asked:
        return f"{name} {chosen}: asked for, adds {errors[chosen]:.2%} error"
    return (
        f"{name} {chosen}: {asked} bits would add {errors[asked]:.2%} error, above {limit:.2%}; "
        f"{chosen} add {errors[chosen]:.2%}"
    )


def _energy(rows: Tensor) -> float:
    return float(rows.double().square().sum())


def _array(tensor: Tensor) -> NDArray[Any]:
    return tensor.detach().cpu().numpy()
