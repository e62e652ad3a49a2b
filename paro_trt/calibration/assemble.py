"""A plan from what the passes decided."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import __version__
from ..op.mask import pack_block_mask
from ..plan import CalibrationRecord, HeadRecord, KeyCost, LayerPlan, ParoPlan, sum_keys
from .quantize import QuantizationChoice
from .run import CalibrationRun
from .select_mask import LayerMasks


class LayerDecision(NamedTuple):
    """Decided for one layer. orders: int32 [H], the candidate each head uses."""

    orders: NDArray[np.int32]
    masks: LayerMasks
    quantization: QuantizationChoice


def make_plan(
    run: CalibrationRun,
    layers: Sequence[LayerDecision],
    notes: Sequence[str],
    measured: dict[str, float],
) -> ParoPlan:
    """The plan of a run's sites, in their order; it holds only the orders that heads use."""
    used = sorted({int(candidate) for layer in layers for candidate in layer.orders})
    row_of = {candidate: row for row, candidate in enumerate(used)}
    names = tuple(run.candidates[candidate].name for candidate in used)
    plans = []
    for site, layer in zip(run.sites, layers, strict=True):
        rows = np.array([row_of[int(candidate)] for candidate in layer.orders], dtype=np.int32)
        plans.append(
            LayerPlan(
                name=site.name,
                head_order=rows,
                block_mask=pack_block_mask(layer.masks.mask),
                channel_affine=layer.quantization.channel_affine,
                qk_bits=layer.quantization.qk_bits,
                pv_bits=layer.quantization.pv_bits,
                bits_reason=layer.quantization.reason,
                heads=_head_records(layer.masks, [names[row] for row in rows]),
                fine_mask=None if layer.masks.fine is None else pack_block_mask(layer.masks.fine),
                corrected_heads=layer.masks.corrected_heads,
                dynamic_blocks=layer.masks.dynamic_blocks,
                rotation=layer.quantization.rotation,
            )
        )
    return ParoPlan(
        orders=np.stack([run.candidates[candidate].permutation for candidate in used]),
        order_names=names,
        layers=tuple(plans),
        model=run.loaded.identity,
        grid=run.geometry.grid,
        text=run.geometry.text,
        block_q=run.settings.block_q,
        block_k=run.settings.block_k,
        pool_dropped=run.settings.pool_dropped,
        bin_boundaries=run.bin_boundaries(),
        calibration=_record(run, layers, notes, measured),
    )


def mean_density(layers: Sequence[LayerDecision]) -> float:
    """Attended blocks / all blocks, over every layer, bin and head."""
    return float(np.mean([head for layer in layers for head in layer.masks.density.ravel()]))


def total_cost(run: CalibrationRun, layers: Sequence[LayerDecision]) -> float:
    """Keys that a query meets / S, over every layer, bin and head; see `KeyCost`."""
    cost = KeyCost(run.tokens, run.settings.block_q, run.settings.block_k)
    found, rows = [], 0
    for masks in (layer.masks for layer in layers):
        exact = masks.mask.sum(axis=(2, 3))
        fine = np.zeros_like(exact) if masks.fine is None else masks.fine.sum(axis=(2, 3))
        features = masks.dynamic_blocks, masks.corrected_heads
        found.append(cost.met_by_heads(exact, fine, *features, pooled=run.settings.pool_dropped))
        rows += masks.mask.size // masks.mask.shape[-1]
    return sum_keys(found).total / (rows * run.tokens)


def _head_records(masks: LayerMasks, order_names: Sequence[str]) -> tuple[HeadRecord, ...]:
    return tuple(
        HeadRecord(
            order=name,
            density=tuple(masks.density[:, head].tolist()),
            mass=tuple(masks.mass[:, head].tolist()),
            predicted_error=tuple(masks.predicted_error[:, head].tolist()),
        )
        for head, name in enumerate(order_names)
    )


def _record(
    run: CalibrationRun,
    layers: Sequence[LayerDecision],
    notes: Sequence[str],
    measured: dict[str, float],
) -> CalibrationRecord:
    settings = run.settings
    return CalibrationRecord(
        prompts=tuple(run.source.texts[prompt] for prompt in run.prompts_used),
        steps=run.source.steps,
        captured_steps=run.recorded_steps(),
        order_metric=settings.order_metric.value,
        mask_metric=settings.mask_metric.value,
        density=mean_density(layers) if settings.density is None else settings.density,
        seed=settings.seed,
        tool_version=__version__,
        notes=tuple(notes),
        measured=measured,
    )
