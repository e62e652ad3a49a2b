"""Policies whose masks are fixed before the video is made."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from paro_trt.calibration.select_mask import Allocation, MaskMetric, MaskTarget, select_masks
from paro_trt.calibration.select_order import OrderMetric, choose_orders, order_terms
from paro_trt.plan import mask_bins

from .attention import AttentionCall, Selection
from .captures import Captures
from .masks import nearest_blocks, random_distance, window_distance

WINDOW_ASPECTS = ((1, 1, 1), (1, 2, 2), (2, 1, 1), (4, 1, 1), (1, 4, 4), (2, 2, 1), (2, 1, 2))
"""Shapes of sliding windows, sides in tokens relative to each other: frames, rows, columns."""


@dataclass(frozen=True, eq=False)
class StaticMasks:
    """Orders and masks of every layer, one mask a schedule bin.

    orders: int64 [H, S] a layer; masks: bool [T, H, NQ, NK] a layer; names: the order of each
    head of each layer.
    """

    orders: tuple[Tensor, ...]
    masks: tuple[Tensor, ...]
    bin_boundaries: tuple[float, ...]
    names: tuple[tuple[str, ...], ...]

    def __call__(self, call: AttentionCall) -> Selection:
        """The call's layer and bin."""
        mask_bin = int(mask_bins([call.timestep], self.bin_boundaries)[0])
        return Selection(self.orders[call.layer][None], self.masks[call.layer][mask_bin][None])


@dataclass(frozen=True)
class ParoRecipe:
    """How PARO masks are made.

    candidates: names of the orders to choose from.
    """

    candidates: tuple[str, ...]
    pooled: bool
    order_metric: OrderMetric = OrderMetric.OUTPUT_ERROR
    mask_metric: MaskMetric = MaskMetric.OUTPUT_ERROR
    allocation: Allocation = Allocation.LAYER


def paro_masks(captures: Captures, recipe: ParoRecipe, density: float) -> StaticMasks:
    """Orders and masks as `paro_trt.calibration` chooses them."""
    run = captures.run
    chosen = [_paro_orders(captures, recipe, density, layer) for layer in range(len(run.sites))]
    scores = [captures.scores(layer, c, recipe.pooled) for layer, c in enumerate(chosen)]
    masks = select_masks(
        scores, run.forced, MaskTarget(density), recipe.mask_metric, recipe.allocation
    )
    return _static(captures, chosen, [torch.from_numpy(layer.mask) for layer in masks])


def full_masks(captures: Captures) -> StaticMasks:
    """Every block, in the model's own order."""
    sites, bins = captures.run.sites, captures.run.settings.bins
    chosen = [np.zeros(site.heads, dtype=np.int32) for site in sites]
    shape = captures.run.forced.shape
    masks = [torch.ones((bins, site.heads, *shape), dtype=torch.bool) for site in sites]
    return _static(captures, chosen, masks)


def attend_all(masks: StaticMasks) -> StaticMasks:
    """The same orders with every block."""
    return replace(masks, masks=tuple(torch.ones_like(mask) for mask in masks.masks))


def random_masks(captures: Captures, density: float, seed: int) -> StaticMasks:
    """The diagonal and random blocks, in the model's own order."""
    forced = torch.from_numpy(captures.run.forced)
    layers, settings = captures.run.sites, captures.run.settings
    shape = (len(layers), settings.bins, layers[0].heads, *forced.shape)
    masks = nearest_blocks(random_distance(shape, forced, seed), density)
    chosen = [np.zeros(site.heads, dtype=np.int32) for site in layers]
    return _static(captures, chosen, list(masks))


def sliding_windows(captures: Captures, density: float) -> StaticMasks:
    """3-D windows over tiles; each head has the tile and window that lose it the least output.

    After Sliding Tile Attention (arXiv 2502.04507), which also chooses a window for each head
    beforehand, by the error it causes.
    """
    rows = list(captures.judged_blocks)
    windows = {
        (candidate, aspect): nearest_blocks(
            window_distance(
                captures.run.geometry.grid, captures.orders[candidate], captures.tiling, aspect
            ),
            density,
        )
        for candidate, name in enumerate(captures.names)
        if name.startswith("tile")
        for aspect in WINDOW_ASPECTS
    }
    chosen, masks = [], []
    for layer, site in enumerate(captures.run.sites):
        best = []
        for head in range(site.heads):
            losses = {
                key: _lost(captures, layer, head, key[0], mask[rows])
                for key, mask in windows.items()
            }
            best.append(min(losses, key=losses.__getitem__))
        chosen.append(np.array([candidate for candidate, _ in best], dtype=np.int32))
        mask = torch.stack([windows[key] for key in best])
        masks.append(mask.expand(captures.run.settings.bins, *mask.shape))
    return _static(captures, chosen, masks)


def _lost(captures: Captures, layer: int, head: int, candidate: int, mask: Tensor) -> float:
    """Predicted squared error of a mask of the sampled rows, over their output's energy."""
    units = captures.sampled(layer, head, candidate, False)
    return sum(float(unit.error[~mask].sum() / unit.energy.sum()) for unit in units)


def _paro_orders(captures: Captures, recipe: ParoRecipe, density: float, layer: int) -> np.ndarray:
    """int32 [H]: indices into the captures' candidates."""
    indices = [captures.names.index(name) for name in recipe.candidates]
    heads = captures.run.sites[layer].heads
    if len(indices) == 1:
        return np.full(heads, indices[0], dtype=np.int32)
    forced = torch.from_numpy(captures.run.forced)[list(captures.judged_blocks)]
    terms = np.array(
        [
            [
                np.mean(
                    [
                        order_terms(unit, forced, MaskTarget(density), recipe.order_metric)
                        for unit in captures.sampled(layer, head, index, recipe.pooled)
                    ],
                    axis=0,
                )
                for head in range(heads)
            ]
            for index in indices
        ]
    )
    return np.array(indices, dtype=np.int32)[choose_orders(terms, recipe.order_metric, 1)]


def _static(captures: Captures, chosen: list[np.ndarray], masks: list[Tensor]) -> StaticMasks:
    return StaticMasks(
        tuple(torch.stack([captures.orders[index] for index in of_layer]) for of_layer in chosen),
        tuple(masks),
        captures.run.bin_boundaries(),
        tuple(tuple(captures.names[index] for index in of_layer) for of_layer in chosen),
    )
