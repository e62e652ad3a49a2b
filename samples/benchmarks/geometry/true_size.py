"""Orders, masks and a plan's layer at a model's true size, from made-up scores and no weights."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from paro_trt.calibration.orders import CandidateOrder, candidate_orders
from paro_trt.calibration.select_mask import (
    Allocation,
    LayerMasks,
    LayerScores,
    MaskMetric,
    MaskTarget,
    forced_blocks,
    select_masks,
)
from paro_trt.calibration.settings import CalibrationSettings
from paro_trt.calibration.statistics import Tiling
from paro_trt.families.base import AttentionSite, Geometry
from paro_trt.op.mask import pack_block_mask, tile_order
from paro_trt.op.spec import block_count
from paro_trt.plan import CalibrationRecord, HeadRecord, LayerPlan, ModelIdentity, ParoPlan
from paro_trt.plan.mask_codec import encode_mask

SAMPLES = 2
"""Tokens of a block, evenly spread, by whose places it is scored."""

SETTINGS = CalibrationSettings()


@dataclass(frozen=True)
class TrueSize:
    """What building one layer's plan took.

    Args:
        plan: of that layer, valid.
        tile_order: int32 [T, H*NQ].
        mask_bytes: of its masks in a plan file.
        seconds: orders, selection, packing, checks, compression; not the making up of scores.
    """

    plan: ParoPlan
    tile_order: NDArray[np.int32]
    mask_bytes: int
    seconds: float


def build_layer(geometry: Geometry, site: AttentionSite, seed: int) -> TrueSize:
    """One layer of a plan with the package's default settings, by its own functions.

    Only the scores are made up: a head attends places that are near on the grid, each head by
    lengths of its own along frames, rows and columns, under the order that suits them.
    """
    start = time.perf_counter()
    candidates = candidate_orders(geometry.grid, geometry.text)
    ordered = time.perf_counter()
    rng = np.random.default_rng(seed)
    heads = _kv_shared_heads(rng, site, candidates)
    scores = _layer_scores(rng, geometry, candidates, heads)
    scored = time.perf_counter()
    tiling = Tiling(SETTINGS.block_q, SETTINGS.block_k)
    (masks,) = select_masks(
        [scores],
        forced_blocks(geometry.tokens, geometry.text, tiling),
        MaskTarget(density=SETTINGS.density),
        MaskMetric.MASS,
        Allocation.LAYER,
    )
    del scores
    plan = _plan(geometry, site, candidates, heads, masks)
    words = plan.layers[0].block_mask
    schedule = tile_order(words)
    size = len(encode_mask(words))
    seconds = time.perf_counter() - scored + ordered - start
    return TrueSize(plan, schedule, size, seconds)


@dataclass(frozen=True)
class _Head:
    """Its order, and how far it looks along frames, rows and columns, in tokens, in each bin."""

    order: int
    lengths: NDArray[np.float64]


def _kv_shared_heads(
    rng: np.random.Generator, site: AttentionSite, candidates: tuple[CandidateOrder, ...]
) -> list[_Head]:
    group = site.heads // site.kv_heads
    of_kv = [int(rng.integers(len(candidates))) for _ in range(site.kv_heads)]
    lengths = np.exp(rng.uniform(np.log(1.5), np.log(15.0), (site.heads, 3)))
    return [
        _Head(order, lengths[head])
        for head, order in enumerate(itertools.chain(*([order] * group for order in of_kv)))
    ]


def _layer_scores(
    rng: np.random.Generator,
    geometry: Geometry,
    candidates: tuple[CandidateOrder, ...],
    heads: list[_Head],
) -> LayerScores:
    query_blocks = block_count(geometry.tokens, SETTINGS.block_q)
    key_blocks = block_count(geometry.tokens, SETTINGS.block_k)
    mass = np.empty((SETTINGS.bins, len(heads), query_blocks, key_blocks), np.float32)
    places = _places(geometry)
    for index, head in enumerate(heads):
        order = candidates[head.order].permutation
        query = _sampled(places, order, SETTINGS.block_q)
        key = _sampled(places, order, SETTINGS.block_k)
        for part, widening in zip(range(SETTINGS.bins), (1.0, 1.2), strict=False):
            near = _nearness(query, key, head.lengths * widening)
            near *= np.exp(rng.normal(0.0, 0.5, near.shape).astype(np.float32))
            mass[part, index] = near / near.sum()
    return LayerScores(mass, mass, np.full((SETTINGS.bins, len(heads)), 1.0 / len(heads)))


def _places(geometry: Geometry) -> NDArray[np.float32]:
    """f32 [S, 3]: frame, row and column of each token of the sequence; text is at the origin."""
    grid, text = geometry.grid, geometry.text
    visual = np.indices((grid.frames, grid.height, grid.width)).reshape(3, -1).T
    written = np.zeros((text.count, 3))
    parts = (written, visual) if text.position.value == "first" else (visual, written)
    return np.concatenate(parts).astype(np.float32)


def _sampled(
    places: NDArray[np.float32], order: NDArray[np.int32], block: int
) -> NDArray[np.float32]:
    """f32 [SAMPLES, blocks, 3]."""
    starts = np.arange(block_count(len(order), block)) * block
    steps = (np.arange(SAMPLES) * block // SAMPLES)[:, None]
    return places[order[np.minimum(starts + steps, len(order) - 1)]]


def _nearness(
    query: NDArray[np.float32], key: NDArray[np.float32], lengths: NDArray[np.float64]
) -> NDArray[np.float32]:
    """f32 [NQ, NK]: exp(-distance^2 / 2) in units of `lengths`, summed over the samples."""
    scale = np.float32(1.0) / lengths.astype(np.float32)
    total = np.full((query.shape[1], key.shape[1]), np.float32(1e-12))
    for one, other in itertools.product(query * scale, key * scale):
        squares = (one * one).sum(1)[:, None] + (other * other).sum(1)
        total += np.exp(np.minimum(one @ other.T - squares / 2, 0.0))
    return total


def _plan(
    geometry: Geometry,
    site: AttentionSite,
    candidates: tuple[CandidateOrder, ...],
    heads: list[_Head],
    masks: LayerMasks,
) -> ParoPlan:
    affine = np.zeros((4, site.kv_heads, site.head_dim), np.float32)
    affine[1::2] = 1.0
    layer = LayerPlan(
        name=site.name,
        head_order=np.array([head.order for head in heads], np.int32),
        block_mask=pack_block_mask(masks.mask),
        channel_affine=affine,
        qk_bits=SETTINGS.qk_bits,
        pv_bits=SETTINGS.pv_bits,
        bits_reason="the default",
        heads=tuple(
            HeadRecord(
                candidates[head.order].name,
                tuple(masks.density[:, index].tolist()),
                tuple(masks.mass[:, index].tolist()),
                (0.0,) * SETTINGS.bins,
            )
            for index, head in enumerate(heads)
        ),
    )
    return ParoPlan(
        orders=np.stack([candidate.permutation for candidate in candidates]),
        order_names=tuple(candidate.name for candidate in candidates),
        layers=(layer,),
        model=ModelIdentity("none", "0" * 64),
        grid=geometry.grid,
        text=geometry.text,
        block_q=SETTINGS.block_q,
        block_k=SETTINGS.block_k,
        pool_dropped=SETTINGS.pool_dropped,
        bin_boundaries=tuple(
            1000.0 * part / SETTINGS.bins for part in range(SETTINGS.bins - 1, 0, -1)
        ),
        calibration=CalibrationRecord(
            (), 20, (), "none", "made up", SETTINGS.density or 0.0, 0, "none", (), {}
        ),
    )
