"""Which key blocks each query block attends: one budget, spent where it buys the most."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentError
from ..op.spec import block_count
from ..plan import TextLayout, TextPosition
from .statistics import Tiling


class MaskMetric(str, Enum):
    """What makes a block worth attending."""

    OUTPUT_ERROR = "output-error"
    MASS = "mass"


class Allocation(str, Enum):
    """Who shares one density budget. Bins of the schedule always share it with their heads.

    MODEL: all layers; a layer's errors are relative to its own output energy, so that a layer
        that loses a larger share of its output gets more blocks.
    LAYER: the heads of a layer; a head that adds more energy to the layer's output counts more.
    HEAD: no one; every head and bin keeps the same number of blocks.
    MEASURED: all layers, by what each one's blocks and bits do to the prediction of the model.
    """

    MODEL = "model"
    LAYER = "layer"
    HEAD = "head"
    MEASURED = "measured"


SHARED_BUDGETS = (Allocation.MODEL, Allocation.LAYER, Allocation.HEAD)
"""Those that scores of blocks decide alone."""


class MaskTarget(NamedTuple):
    """How much to keep: a share of the blocks, or else a share of every head's mass."""

    density: float | None = None
    mass: float | None = None

    def check(self) -> None:
        """Raise ArgumentError unless exactly one of the two is given and in (0, 1]."""
        check_shares({"density": self.density, "mass": self.mass})


def check_shares(shares: Mapping[str, float | None]) -> None:
    """Raise ArgumentError unless exactly one is given and in (0, 1]."""
    given = {name: share for name, share in shares.items() if share is not None}
    if len(given) != 1:
        raise ArgumentError(
            ", ".join(shares),
            expected="one of them",
            actual=" and ".join(f"{name} {share:g}" for name, share in given.items()) or "none",
        )
    ((name, share),) = given.items()
    if not 0.0 < share <= 1.0:
        percent = f"{share:g} percent is {share / 100:g}" if 1.0 < share <= 100.0 else ""
        raise ArgumentError(name, expected="a share in (0, 1]", actual=f"{share:g}", remedy=percent)


class LayerScores(NamedTuple):
    """Block statistics of one layer, averaged over captures.

    error: f32 [T, H, NQ, NK], squared output error a left-out block costs, as a share of the
        layer's output energy.
    mass: f32 [T, H, NQ, NK], share of the head's attention; sums to 1 over its blocks.
    energy: f64 [T, H], the head's share of the layer's output energy.
    fine_error: f32 [T, H, NQ, NK], as error, of a block with four summary tokens; None where none
        may be fine.
    """

    error: NDArray[np.float32]
    mass: NDArray[np.float32]
    energy: NDArray[np.float64]
    fine_error: NDArray[np.float32] | None = None


class LayerMasks(NamedTuple):
    """Masks of one layer and what they keep.

    mask: bool [T, H, NQ, NK], the exact blocks; density, mass, predicted_error: f64 [T, H].
    predicted_error is the relative L2 error of the head's output, sqrt(sum of left-out errors /
    energy): a first-order estimate that assumes uncorrelated errors of the blocks. Of version 2,
    None where not used: fine: bool [T, H, NQ, NK], none of them exact; dynamic_blocks: int32
    [T, H]; corrected_heads: int32 [H].
    """

    mask: NDArray[np.bool_]
    density: NDArray[np.float64]
    mass: NDArray[np.float64]
    predicted_error: NDArray[np.float64]
    fine: NDArray[np.bool_] | None = None
    dynamic_blocks: NDArray[np.int32] | None = None
    corrected_heads: NDArray[np.int32] | None = None


def block_budget(density: float, blocks: int) -> int:
    """Blocks that a density keeps of `blocks`: floor(density * blocks), at most all of them.

    The only place that computes it. A density such as 0.29 is not exact in binary: 0.29 * 100 is
    28.999999999999996. The density and the product are rounded once each, by at most 2**-53 of
    their value, so the factor recovers the integer that the decimal number means.
    """
    return min(blocks, math.floor(density * blocks * (1.0 + 2.0**-50)))


def forced_blocks(tokens: int, text: TextLayout, tiling: Tiling) -> NDArray[np.bool_]:
    """bool [NQ, NK]: blocks every mask attends, whatever their score.

    The key blocks that hold a query block's own tokens, and those that hold text tokens.
    """
    query_start = np.arange(block_count(tokens, tiling.block_q))[:, None] * tiling.block_q
    key_start = np.arange(block_count(tokens, tiling.block_k))[None, :] * tiling.block_k
    query_end = np.minimum(query_start + tiling.block_q, tokens)
    key_end = np.minimum(key_start + tiling.block_k, tokens)
    forced = (key_start < query_end) & (query_start < key_end)
    if text.position is TextPosition.FIRST:
        forced |= key_start < text.count
    elif text.position is TextPosition.LAST:
        forced |= key_end > tokens - text.count
    return forced


def select_masks(
    layers: Sequence[LayerScores],
    forced: NDArray[np.bool_],
    target: MaskTarget,
    metric: MaskMetric,
    allocation: Allocation,
) -> tuple[LayerMasks, ...]:
    """Masks of all layers at the target.

    A density target keeps `block_budget` of the blocks that share it, highest score first (the
    lower index wins a tie), and more only where the forced blocks alone exceed it. A mass
    target keeps, in every head and bin, the fewest blocks that hold that mass: it ranks by mass
    whatever the metric, and there is no budget to allocate.

    Args:
        layers: scores of each layer, of equal query and key blocks.
        forced: bool [NQ, NK], see `forced_blocks`.
        target: density or mass.
        metric: what a density target ranks by.
        allocation: who shares a density budget, of `SHARED_BUDGETS`.
    """
    target.check()
    if target.mass is not None:
        masks = [_masks_of_mass(layer.mass, forced, target.mass) for layer in layers]
    else:
        density = float(target.density or 0.0)
        scores = [
            layer.error if metric is MaskMetric.OUTPUT_ERROR else layer.mass for layer in layers
        ]
        masks = _masks_of_density(scores, forced, density, allocation)
    return tuple(describe_masks(layer, mask) for layer, mask in zip(layers, masks, strict=True))


def _masks_of_density(
    scores: Sequence[NDArray[np.float32]],
    forced: NDArray[np.bool_],
    density: float,
    allocation: Allocation,
) -> list[NDArray[np.bool_]]:
    if allocation is Allocation.MODEL:
        stacked = np.stack(scores)
        return list(_best_of_budget(stacked, forced, density))
    if allocation is Allocation.LAYER:
        return [_best_of_budget(score, forced, density) for score in scores]
    return [
        np.stack([[_best_of_budget(head, forced, density) for head in of_bin] for of_bin in score])
        for score in scores
    ]


def _best_of_budget(
    score: NDArray[np.float32], forced: NDArray[np.bool_], density: float
) -> NDArray[np.bool_]:
    """The `block_budget` highest scores of one budget [..., NQ, NK], forced ones first."""
    budget = block_budget(density, score.size)
    ranked = np.where(forced, np.float32(np.inf), score).ravel()
    budget = max(budget, int(np.isposinf(ranked).sum()))
    threshold = np.partition(ranked, ranked.size - budget)[ranked.size - budget]
    chosen: NDArray[np.bool_] = ranked > threshold
    ties = np.flatnonzero(ranked == threshold)
    chosen[ties[: budget - int(chosen.sum())]] = True
    return chosen.reshape(score.shape)


def _masks_of_mass(
    mass: NDArray[np.float32], forced: NDArray[np.bool_], wanted: float
) -> NDArray[np.bool_]:
    flat = mass.reshape(*mass.shape[:2], -1)
    ranked = np.where(forced.ravel(), np.float32(np.inf), flat)
    best_first = np.argsort(-ranked, axis=-1, kind="stable")
    held = np.cumsum(np.take_along_axis(flat, best_first, axis=-1), axis=-1, dtype=np.float64)
    # A block is needed as long as those before it fall short of the share.
    short_before = np.pad(held, ((0, 0), (0, 0), (1, 0)))[..., :-1] < wanted * held[..., -1:]
    chosen = np.zeros(flat.shape, dtype=bool)
    np.put_along_axis(chosen, best_first, short_before, axis=-1)
    return np.asarray(chosen.reshape(mass.shape) | forced)


def describe_masks(
    layer: LayerScores, mask: NDArray[np.bool_], fine: NDArray[np.bool_] | None = None
) -> LayerMasks:
    """Masks bool [T, H, NQ, NK] of exact and of fine blocks, and what they keep."""
    error = layer.error
    if fine is not None and layer.fine_error is not None:
        error = np.where(fine, layer.fine_error, error)
    left_out = np.where(mask, 0.0, error).sum(axis=(2, 3), dtype=np.float64)
    kept = np.where(mask, layer.mass, 0.0).sum(axis=(2, 3), dtype=np.float64)
    total = layer.mass.sum(axis=(2, 3), dtype=np.float64)
    return LayerMasks(
        mask=mask,
        density=mask.mean(axis=(2, 3), dtype=np.float64),
        mass=np.minimum(kept / np.maximum(total, np.finfo(np.float64).tiny), 1.0),
        predicted_error=np.sqrt(left_out / np.maximum(layer.energy, np.finfo(np.float64).tiny)),
        fine=fine if fine is not None and fine.any() else None,
    )
