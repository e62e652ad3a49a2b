"""The layers of a plan as rows of a table."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from statistics import fmean

from ..plan import LayerPlan, ParoPlan, plan_mix
from .measured import MeasuredFigures
from .text import TIMES, clipped, percent

_ORDERS_SHOWN = 6


@dataclass(frozen=True)
class LayerRow:
    """One layer; figures are means over its heads and bins.

    Args:
        name: module path.
        orders: how its heads are ordered, most used first.
        density: attended blocks / all blocks.
        mass: attention kept.
        predicted_error: relative L2 error of a head's output.
        heldout_error: measured on prompts not calibrated on; None where it was not.
        qk_bits: 16, 8 or 4.
        pv_bits: 16, 8 or 4.
        reason: why these bits.
        smoothed: how many key/value heads of smoothed query x key are rotated; empty where it is
            not smoothed.
        effect: relative L2 error of the model's prediction that the layer adds; None where effects
            were not measured.
        time_share: of the plan's counted time; None where effects were not measured.
        mix: shares of exact, fine and coarse blocks, blocks chosen at run time and corrected
            heads; None where the plan has none of version 2.
    """

    name: str
    orders: str
    density: float
    mass: float
    predicted_error: float
    heldout_error: float | None
    qk_bits: int
    pv_bits: int
    reason: str
    smoothed: str
    mix: str | None
    effect: float | None
    time_share: float | None


def layer_rows(plan: ParoPlan, measured: MeasuredFigures) -> tuple[LayerRow, ...]:
    """All layers, in the model's order."""
    return tuple(_row(plan, layer, measured) for layer in plan.layers)


def largest_error(rows: tuple[LayerRow, ...]) -> float:
    """The longest bar among the errors of all rows; 1 where all are 0."""
    return max(max(row.predicted_error, row.heldout_error or 0.0) for row in rows) or 1.0


def _row(plan: ParoPlan, layer: LayerPlan, measured: MeasuredFigures) -> LayerRow:
    def mean(figure: str) -> float:
        return fmean(value for head in layer.heads for value in getattr(head, figure))

    return LayerRow(
        name=layer.name,
        orders=_orders(layer),
        density=mean("density"),
        mass=mean("mass"),
        predicted_error=mean("predicted_error"),
        heldout_error=measured.layer_errors.get(layer.name),
        qk_bits=layer.qk_bits,
        pv_bits=layer.pv_bits,
        reason=clipped(layer.bits_reason),
        smoothed=_smoothed(layer),
        mix=_mix(plan, layer) if plan.mixes else None,
        effect=measured.effects.get(layer.name),
        time_share=measured.time_shares.get(layer.name),
    )


def _smoothed(layer: LayerPlan) -> str:
    if layer.rotation is None:
        return ""
    return f"smoothed, {layer.rotated_heads} of {len(layer.rotation)} heads rotated"


def _mix(plan: ParoPlan, layer: LayerPlan) -> str:
    mix = plan_mix(plan, [layer])
    parts = [" / ".join(percent(share) for share in (mix.exact, mix.fine, mix.coarse))]
    least, most = mix.dynamic_blocks
    if most:
        parts.append(f"{least} to {most} at run time")
    if mix.corrected_heads:
        parts.append(f"{mix.corrected_heads} of {mix.heads} heads corrected")
    return "; ".join(parts)


def _orders(layer: LayerPlan) -> str:
    uses = Counter(head.order for head in layer.heads).most_common()
    parts = [
        name if count == 1 else f"{name} {TIMES}{count}" for name, count in uses[:_ORDERS_SHOWN]
    ]
    return ", ".join(parts) + (" …" if len(uses) > _ORDERS_SHOWN else "")
