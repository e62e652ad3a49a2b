"""Policies that look at each call's queries and keys to decide."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from paro_trt.calibration.statistics import Tiling

from .attention import AttentionCall, Selection
from .captures import Captures
from .masks import band_distance, nearest_blocks

PROBED_ROWS = 64
"""Queries by which a head is judged spatial or temporal."""


@dataclass(frozen=True, eq=False)
class TopBlocks:
    """The key blocks with the largest attention between block means (SpargeAttn, arXiv 2502.18137).

    order: int64 [S], for all heads.
    """

    order: Tensor
    tiling: Tiling
    density: float

    def __call__(self, call: AttentionCall) -> Selection:
        """Masks of each sample and head."""
        query, key = (tensor.transpose(1, 2)[:, :, self.order] for tensor in (call.query, call.key))
        batch, heads = query.shape[:2]
        score = mean_block_scores(query, key, self.tiling, call.scale)
        return Selection(self.order.expand(batch, heads, -1), nearest_blocks(-score, self.density))


def mean_block_scores(query: Tensor, key: Tensor, tiling: Tiling, scale: float) -> Tensor:
    """Softmax over key blocks of the products of block means, [..., NQ, NK]; inputs [..., S, D]."""
    query = query.unflatten(-2, (-1, tiling.block_q)).mean(dim=-2)
    key = key.unflatten(-2, (-1, tiling.block_k)).mean(dim=-2)
    return (query @ key.transpose(-1, -2) * scale).softmax(dim=-1)


def best_top_blocks(captures: Captures, density: float) -> TopBlocks:
    """TopBlocks in the one order that loses the least output on the calibration captures.

    SpargeAttn puts video tokens on a Hilbert curve; here every candidate order may win.
    """
    rows = list(captures.judged_blocks)
    losses = []
    for index, order in enumerate(captures.orders):
        loss = 0.0
        for layer, site in enumerate(captures.run.sites):
            for head in range(site.heads):
                units = captures.sampled(layer, head, index, False)
                for unit, inputs in zip(units, captures.judged_inputs(layer), strict=True):
                    sample = inputs.head(head)
                    score = mean_block_scores(
                        sample.query[order], sample.key[order], captures.tiling, sample.scale
                    )
                    mask = nearest_blocks(-score, density)[rows]
                    loss += float(unit.error[~mask].sum() / unit.energy.sum())
        losses.append(loss)
    best = min(range(len(losses)), key=losses.__getitem__)
    return TopBlocks(captures.orders[best], captures.tiling, density)


@dataclass(frozen=True, eq=False)
class SpatialTemporal:
    """Each head attends its own frames or its own places, as a probe of each call decides.

    After Sparse VideoGen (arXiv 2502.01776): a band along the sequence in frame-major order, or
    in place-major order; whichever is nearer to dense attention on a few random queries.

    orders: int64 [2, S], spatial and temporal; mask: bool [NQ, NK] of both.
    """

    orders: Tensor
    mask: Tensor
    tiling: Tiling

    def __call__(self, call: AttentionCall) -> Selection:
        """The better of the two for each sample and head."""
        query, key, value = (
            tensor.transpose(1, 2) for tensor in (call.query, call.key, call.value)
        )
        tokens = query.shape[2]
        generator = torch.Generator().manual_seed(call.layer)
        probed = torch.randperm(tokens, generator=generator)[: min(PROBED_ROWS, tokens)]
        logits = query[:, :, probed] @ key.transpose(2, 3) * call.scale
        dense = logits.softmax(dim=3) @ value
        errors = []
        for order in self.orders:
            visible = self._visible(order)[probed]
            masked = logits.masked_fill(~visible, -math.inf).softmax(dim=3) @ value
            errors.append((masked - dense).square().sum(dim=(2, 3)))
        better = torch.stack(errors).argmin(dim=0)
        return Selection(self.orders[better], self.mask.expand(*better.shape, -1, -1))

    def _visible(self, order: Tensor) -> Tensor:
        """bool [S, S] in the model's own order: which keys a query attends."""
        block_of = order.argsort()
        rows = self.mask[block_of // self.tiling.block_q]
        return rows[:, block_of // self.tiling.block_k]


def spatial_temporal(captures: Captures, density: float) -> SpatialTemporal:
    """Bands of this density, frame-major ("fhw") and place-major ("hwf")."""
    orders = torch.stack([captures.orders[captures.names.index(name)] for name in ("fhw", "hwf")])
    mask = nearest_blocks(band_distance(orders.shape[1], captures.tiling), density)
    return SpatialTemporal(orders, mask, captures.tiling)
