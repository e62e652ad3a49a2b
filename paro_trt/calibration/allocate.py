"""The plan of least error of the prediction within a time, from measured effects of its parts.

Each layer has one pair of bit widths, which an op has for all of its heads, and in each bin one
level of blocks kept for each group of its heads. The squared errors of parts add, as if they were
independent: that is an estimate, and the error of the whole plan is measured afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentError
from ..op.spec import COARSE_KEYS
from ..plan import BlockCounts
from . import knapsack
from .effects import KEYS, LEVELS, HeadGroup, width_name
from .quantize import Product, can_rotate
from .run import CalibrationRun
from .select_mask import (
    Allocation,
    LayerMasks,
    LayerScores,
    MaskTarget,
    describe_masks,
    select_masks,
)
from .select_mix import select_mixes
from .time_model import clocks_per_score, relative_time, worthwhile_bits

_LAYER_LIMIT = 256
"""Points of one layer's front."""

_LEAST = 1e-9
"""A budget below that of the forced blocks, which are then all there is."""


class LayerChoice(NamedTuple):
    """Chosen for a layer.

    levels: of each bin and group of heads, an index into `CalibrationSettings.levels`. effect:
    squared error of the prediction that it adds, relative. time: as a share of that of all layers,
    dense in 16 bits.
    """

    qk_bits: int
    pv_bits: int
    levels: tuple[tuple[int, ...], ...]
    effect: float
    time: float


def layer_weights(run: CalibrationRun) -> NDArray[np.float64]:
    """f64 [layers]: share of each in the time of dense attention in 16 bits."""
    weights = np.array(
        [
            site.heads * clocks_per_score(run.settings.time_target, site.head_dim, 16, 16)
            for site in run.sites
        ]
    )
    return np.asarray(weights / weights.sum())


def time_of(run: CalibrationRun, layer: int, qk_bits: int, pv_bits: int) -> float:
    """Time of a layer with these bits that keeps all blocks, as a share of that of all in 16."""
    site = run.sites[layer]
    relative_to_16 = relative_time(
        run.settings.time_target, site.head_dim, qk_bits, pv_bits, _smoothed_keys(run, layer)
    )
    return float(layer_weights(run)[layer]) * relative_to_16


def bit_pairs(run: CalibrationRun, layer: int) -> tuple[tuple[int, int], ...]:
    """The bits that a layer may choose from."""
    settings, site = run.settings, run.sites[layer]
    return worthwhile_bits(
        settings.time_target, site.head_dim, settings.qk_bits, settings.pv_bits,
        _smoothed_keys(run, layer),
    )  # fmt: skip


def _smoothed_keys(run: CalibrationRun, layer: int) -> int | None:
    """Tokens in a key block where a layer's 4-bit query x key is smoothed."""
    smoothed = run.settings.smoothing and can_rotate(run.sites[layer].head_dim)
    return run.settings.block_k if smoothed else None


def tried_widths(run: CalibrationRun, layer: int) -> tuple[tuple[Product, int], ...]:
    """The widths whose effects are measured, of one product at a time."""
    pairs = bit_pairs(run, layer)
    return tuple(
        (product, bits)
        for index, product in enumerate((Product.QK, Product.PV))
        for bits in sorted({pair[index] for pair in pairs} - {16}, reverse=True)
    )


def time_budget(run: CalibrationRun) -> float | None:
    """The time that a plan may take, as a share of dense attention in 16 bits; None: an error is
    the budget.

    A density or cost stands for the time of a plan that keeps as much in every layer with 8 bits,
    or with 16 where no fewer are allowed.
    """
    settings = run.settings
    if settings.max_error is not None:
        return None
    if settings.speedup is not None:
        return 1.0 / settings.speedup
    bits = max(settings.qk_bits, 8), max(settings.pv_bits, 8)
    layers = range(len(run.sites))
    return _uniform_keys(run) * sum(time_of(run, layer, *bits) for layer in layers)


def check_budget(run: CalibrationRun) -> None:
    """Refuse a budget of time that no plan keeps.

    Raises:
        ArgumentError: the forced blocks alone take longer.
    """
    budget = time_budget(run)
    if budget is None:
        return
    least = _keys(run, run.forced, None)
    fastest = least * sum(_fastest(run, layer) for layer in range(len(run.sites)))
    if fastest <= budget:
        return
    settings = run.settings
    coarse = COARSE_KEYS / settings.block_k * settings.pool_dropped
    reachable = {
        "speedup": 1.0 / fastest,
        "cost": (settings.cost or 0.0) * fastest / budget,
        "density": (_uniform_keys(run) * fastest / budget - coarse) / (1.0 - coarse),
    }
    name = next(name for name in reachable if getattr(settings, name) is not None)
    raise ArgumentError(
        name,
        expected=f"at {'most' if name == 'speedup' else 'least'} {reachable[name]:.4g}: blocks on "
        "the diagonal and of text are exact in any case, and with the fewest bits take "
        f"{fastest:.4g} of the time of dense attention in 16 bits",
        actual=f"{getattr(settings, name):g}",
        remedy="ask for less, or use smaller blocks (--block-q 64 --block-k 64), or a --target "
        "where fewer bits pay",
    )


def group_sizes(run: CalibrationRun, layer: int) -> tuple[int, ...]:
    """Heads of each group of a layer; there is no group without heads."""
    heads = run.sites[layer].heads
    groups = np.array_split(np.arange(heads), min(run.settings.head_groups, heads))
    return tuple(len(group) for group in groups)


def head_groups(
    run: CalibrationRun, scores: LayerScores, layer: int
) -> tuple[NDArray[np.int64], ...]:
    """The heads of each group, int64 [G] each: those that leave the least error where every head
    keeps as much come first."""
    left = np.zeros(run.sites[layer].heads)
    for mask_bin in range(run.settings.bins):
        part = _part(scores, mask_bin)
        masks = _masks_at(run, part, run.settings.uniform_share or 0.0, Allocation.HEAD)
        left += (np.square(masks.predicted_error) * part.energy)[0]
    ranked = np.argsort(left, kind="stable")
    ends = np.cumsum(group_sizes(run, layer))[:-1]
    return tuple(np.sort(group) for group in np.split(ranked, ends))


def grouped(
    run: CalibrationRun, scores: LayerScores, mask_bin: int, groups: Sequence[NDArray[np.int64]]
) -> tuple[HeadGroup, ...]:
    """What is tried for each group of a layer's heads in a bin."""

    def of_group(heads: NDArray[np.int64]) -> HeadGroup:
        levels = [level_masks(run, scores, mask_bin, of, heads) for of in run.settings.levels]
        return HeadGroup(heads, levels, np.array([kept_keys(run, masks) for masks in levels]))

    return tuple(of_group(heads) for heads in groups)


def level_masks(
    run: CalibrationRun,
    scores: LayerScores,
    mask_bin: int,
    level: float,
    heads: NDArray[np.int64],
) -> LayerMasks:
    """The masks of some heads of a layer in one bin at a level; their first dimension is 1.

    Args:
        run: of the calibration.
        scores: of the layer.
        mask_bin: which bin.
        level: 1: all blocks are exact; 0: the forced ones alone; else a cost, or a density where
            a density was asked for.
        heads: int64 [G]; they share the level's blocks.
    """
    part = _part(scores, mask_bin, heads)
    if level >= 1.0:
        return describe_masks(part, np.ones(part.error.shape, dtype=bool))
    return _masks_at(run, part, level, Allocation.LAYER)


def kept_keys(run: CalibrationRun, masks: LayerMasks) -> float:
    """Keys that a query meets / S, at most 1."""
    return min(1.0, _keys(run, masks.mask, masks.fine))


def joined(
    run: CalibrationRun,
    scores: LayerScores,
    groups: Sequence[NDArray[np.int64]],
    levels: Sequence[Sequence[int]],
) -> LayerMasks:
    """Masks of a layer's every bin and head.

    Args:
        run: of the calibration.
        scores: of the layer.
        groups: int64 [G] each, the heads of each group.
        levels: as of `LayerChoice`.
    """
    exact, fine = np.zeros((2, *scores.error.shape), dtype=bool)
    for mask_bin, of_bin in enumerate(levels):
        for heads, level in zip(groups, of_bin, strict=True):
            masks = level_masks(run, scores, mask_bin, run.settings.levels[level], heads)
            exact[mask_bin, heads] = masks.mask[0]
            if masks.fine is not None:
                fine[mask_bin, heads] = masks.fine[0]
    return describe_masks(scores, exact, fine)


def choose(
    run: CalibrationRun, effects: Sequence[Mapping[str, NDArray[Any]]]
) -> tuple[LayerChoice, ...]:
    """The best choice for every layer within the budget.

    Args:
        run: of the calibration.
        effects: the summed contributions of each layer, see `effects.measured_effects`.

    Raises:
        ArgumentError: no choice keeps the budget.
    """
    fronts = [_layer_front(run, layer, of_layer) for layer, of_layer in enumerate(effects)]
    whole = knapsack.total(fronts)
    budget, most = time_budget(run), run.settings.max_error
    if budget is None:
        assert most is not None
        point = knapsack.within_error(whole, most**2)
    else:
        point = knapsack.within_time(whole, budget)
    ends = np.cumsum([of.choice.shape[1] for of in fronts])[:-1]
    per_layer = np.split(whole.choice[point], ends)
    return tuple(
        _choice(run, layer, of_layer, int(row[0]), row[1:])
        for layer, (of_layer, row) in enumerate(zip(effects, per_layer, strict=True))
    )


def _layer_front(
    run: CalibrationRun, layer: int, effects: Mapping[str, NDArray[Any]]
) -> knapsack.Front:
    """Choices of a layer: the index of its bits, and a level for each bin and group of heads."""
    levels = effects[LEVELS].shape[-1]
    errors = effects[LEVELS].reshape(-1, levels)
    times = _shares_of_keys(run, layer, effects).reshape(-1, levels)
    fronts = []
    for pair in bit_pairs(run, layer):
        whole = time_of(run, layer, *pair)
        of_parts = [
            knapsack.front(time * whole, error) for time, error in zip(times, errors, strict=True)
        ]
        found = reduce(lambda a, b: knapsack.add(a, b, _LAYER_LIMIT), of_parts)
        fronts.append(found._replace(error=found.error + _of_bits(effects, pair)))
    return knapsack.merge(fronts, _LAYER_LIMIT)


def _choice(
    run: CalibrationRun,
    layer: int,
    effects: Mapping[str, NDArray[Any]],
    pair_index: int,
    levels: NDArray[np.int32],
) -> LayerChoice:
    pair = bit_pairs(run, layer)[pair_index]
    of_parts = levels.reshape(effects[LEVELS].shape[:-1])

    def chosen(of_levels: NDArray[np.float64]) -> float:
        return float(np.take_along_axis(of_levels, of_parts[..., None], axis=-1).sum())

    return LayerChoice(
        *pair,
        tuple(tuple(int(level) for level in of_bin) for of_bin in of_parts),
        chosen(effects[LEVELS]) + _of_bits(effects, pair),
        chosen(_shares_of_keys(run, layer, effects)) * time_of(run, layer, *pair),
    )


def _shares_of_keys(
    run: CalibrationRun, layer: int, effects: Mapping[str, NDArray[Any]]
) -> NDArray[np.float64]:
    """f64 [T, groups, levels]: what each level of a part adds to the layer's keys / S."""
    sizes = np.array(group_sizes(run, layer))
    parts = run.bin_shares()[:, None] * (sizes / sizes.sum())
    return np.asarray(effects[KEYS] * parts[..., None])


def _of_bits(effects: Mapping[str, NDArray[Any]], pair: tuple[int, int]) -> float:
    names = [
        width_name(product, bits)
        for product, bits in zip((Product.QK, Product.PV), pair, strict=True)
        if bits != 16
    ]
    return float(sum(effects[name].sum() for name in names))


def _part(
    scores: LayerScores, mask_bin: int, heads: NDArray[np.int64] | slice = slice(None)
) -> LayerScores:
    """Scores of some heads in one bin; the first dimension is 1."""
    return LayerScores(
        *(None if part is None else part[mask_bin : mask_bin + 1, heads] for part in scores)  # type: ignore[arg-type]
    )


def _masks_at(
    run: CalibrationRun, part: LayerScores, level: float, allocation: Allocation
) -> LayerMasks:
    """Masks of what has these scores at a level below 1."""
    settings, share = run.settings, max(level, _LEAST)
    if settings.mixes:
        return select_mixes([part], run.forced, share, run.tokens, settings.block_k, allocation)[0]
    target = MaskTarget(density=share)
    return select_masks([part], run.forced, target, settings.mask_metric, allocation)[0]


def _uniform_keys(run: CalibrationRun) -> float:
    """Keys that a query meets / S, where every layer keeps what was asked for."""
    settings = run.settings
    if settings.cost is not None:
        return settings.cost
    density = float(settings.density or 0.0)
    return density + (1.0 - density) * COARSE_KEYS / settings.block_k * settings.pool_dropped


def _fastest(run: CalibrationRun, layer: int) -> float:
    return min(time_of(run, layer, *pair) for pair in bit_pairs(run, layer))


def _keys(run: CalibrationRun, exact: NDArray[np.bool_], fine: NDArray[np.bool_] | None) -> float:
    counts = int(exact.sum()), 0 if fine is None else int(fine.sum())
    coarse = exact.size - sum(counts) if run.settings.pool_dropped else 0
    keys = BlockCounts(*counts, coarse).keys(run.settings.block_k)
    return float(keys / (exact.size // exact.shape[-1] * run.tokens))
