"""The plan of least error of the prediction within a time, from measured effects of its parts.

Each layer has one pair of bit widths and, in each bin, one level of blocks kept. The squared
errors of parts add, as if they were independent: that is an estimate, and the error of the whole
plan is measured afterwards.
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
from .effects import KEYS, LEVELS, relative, width_name
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

    levels: of each bin, an index into `CalibrationSettings.levels`. effect: squared error of the
    prediction that it adds, relative. time: as a share of that of all layers, dense in 16 bits.
    """

    qk_bits: int
    pv_bits: int
    levels: tuple[int, ...]
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


def level_masks(
    run: CalibrationRun, scores: LayerScores, mask_bin: int, level: float
) -> LayerMasks:
    """The masks of one bin of a layer at a level; their first dimension is 1.

    Args:
        run: of the calibration.
        scores: of the layer.
        mask_bin: which bin.
        level: 1: all blocks are exact; 0: the forced ones alone; else a cost, or a density where
            a density was asked for.
    """
    settings = run.settings
    of_bin = LayerScores(
        *(None if part is None else part[mask_bin : mask_bin + 1] for part in scores)  # type: ignore[arg-type]
    )
    if level >= 1.0:
        return describe_masks(of_bin, np.ones(of_bin.error.shape, dtype=bool))
    share = max(level, _LEAST)
    if settings.mixes:
        return select_mixes(
            [of_bin], run.forced, share, run.tokens, settings.block_k, Allocation.LAYER
        )[0]
    target = MaskTarget(density=share)
    return select_masks([of_bin], run.forced, target, settings.mask_metric, Allocation.LAYER)[0]


def kept_keys(run: CalibrationRun, masks: LayerMasks) -> float:
    """Keys that a query meets / S, at most 1."""
    return min(1.0, _keys(run, masks.mask, masks.fine))


def joined(scores: LayerScores, of_bins: Sequence[LayerMasks]) -> LayerMasks:
    """Masks of every bin from those of single bins."""
    exact = np.concatenate([masks.mask for masks in of_bins])
    fine = [np.zeros_like(of.mask) if of.fine is None else of.fine for of in of_bins]
    return describe_masks(scores, exact, np.concatenate(fine))


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
    per_layer = whole.choice[point].reshape(len(effects), -1)
    return tuple(
        _choice(run, layer, of_layer, int(row[0]), [int(level) for level in row[1:]])
        for layer, (of_layer, row) in enumerate(zip(effects, per_layer, strict=True))
    )


def _layer_front(
    run: CalibrationRun, layer: int, effects: Mapping[str, NDArray[Any]]
) -> knapsack.Front:
    """Choices of a layer: the index of its bits, and a level for each bin."""
    errors, times = (
        relative(effects, LEVELS, run.bin_weights()),
        effects[KEYS] * run.bin_shares()[:, None],
    )
    fronts = []
    for pair in bit_pairs(run, layer):
        whole = time_of(run, layer, *pair)
        of_bins = [
            knapsack.front(time * whole, error) for time, error in zip(times, errors, strict=True)
        ]
        found = reduce(lambda a, b: knapsack.add(a, b, _LAYER_LIMIT), of_bins)
        fronts.append(found._replace(error=found.error + _of_bits(run, effects, pair)))
    return knapsack.merge(fronts, _LAYER_LIMIT)


def _choice(
    run: CalibrationRun,
    layer: int,
    effects: Mapping[str, NDArray[Any]],
    pair_index: int,
    levels: Sequence[int],
) -> LayerChoice:
    pair, bins = bit_pairs(run, layer)[pair_index], range(len(levels))
    kept = float((effects[KEYS][bins, levels] * run.bin_shares()).sum())
    effect = float(relative(effects, LEVELS, run.bin_weights())[bins, levels].sum()) + _of_bits(
        run, effects, pair
    )
    return LayerChoice(*pair, tuple(levels), effect, kept * time_of(run, layer, *pair))


def _of_bits(
    run: CalibrationRun, effects: Mapping[str, NDArray[Any]], pair: tuple[int, int]
) -> float:
    names = [
        width_name(product, bits)
        for product, bits in zip((Product.QK, Product.PV), pair, strict=True)
        if bits != 16
    ]
    return float(sum(relative(effects, name, run.bin_weights()).sum() for name in names))


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
