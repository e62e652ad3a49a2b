"""A plan as plain values, for JSON and for tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import to_builtins

if TYPE_CHECKING:
    from ..plan import LayerPlan, ParoPlan

AFFINE_ROWS = ("key_mean", "equalizer", "value_mean", "value_scale")
_IDENTITY = (0.0, 1.0, 0.0, 1.0)


def describe_plan(plan: ParoPlan, path: Path) -> dict[str, Any]:
    """Everything in a plan except its arrays."""
    return {
        "kind": "plan",
        "file": str(path),
        "bytes": path.stat().st_size,
        "content_hash": plan.content_hash(),
        "model": to_builtins(plan.model),
        "grid": to_builtins(plan.grid),
        "text": to_builtins(plan.text),
        "tokens": plan.tokens,
        "block_q": plan.block_q,
        "block_k": plan.block_k,
        "query_blocks": plan.query_blocks,
        "key_blocks": plan.key_blocks,
        "pool_dropped": plan.pool_dropped,
        "bins": plan.bins,
        "bin_boundaries": list(plan.bin_boundaries),
        "orders": list(plan.order_names),
        "format_version": plan.version,
        "mix": _describe_mix(plan),
        "density": plan.density(),
        "mass": mean_over_heads(plan, "mass"),
        "predicted_error": mean_over_heads(plan, "predicted_error"),
        "calibration": to_builtins(plan.calibration),
        "layers": [_describe_layer(plan, layer) for layer in plan.layers],
    }


def mix_facts(plan: ParoPlan) -> dict[str, str]:
    """The plan's mix of blocks in words, by name."""
    from ..plan import plan_mix

    mix = plan_mix(plan)
    least, most = mix.dynamic_blocks
    facts = {
        "cost": f"{mix.cost:.4f} of the keys for each query",
        "blocks": f"exact {mix.exact:.4f}, fine {mix.fine:.4f}, coarse {mix.coarse:.4f}",
    }
    if most:
        facts["chosen at run time"] = (
            f"{least} to {most} blocks a query block, {mix.dynamic:.4f}; choosing costs "
            f"{mix.routing:.4f} of the keys"
        )
    if mix.corrected_heads:
        facts["corrected heads"] = (
            f"{mix.corrected_heads} of {mix.heads}, which costs {mix.correction:.4f} of the keys"
        )
    return facts


def smoothed_facts(plan: ParoPlan) -> dict[str, str]:
    """How many layers are smoothed, and how many of their heads rotated; empty where none is."""
    smoothed = [layer for layer in plan.layers if layer.rotation is not None]
    if not smoothed:
        return {}
    heads = sum(layer.channel_affine.shape[1] for layer in smoothed)
    rotated = sum(layer.rotated_heads for layer in smoothed)
    return {
        "smoothed 4-bit QK": f"{len(smoothed)} of {len(plan.layers)} layers, {rotated} of their "
        f"{heads} key/value heads rotated"
    }


def _describe_mix(plan: ParoPlan, layer: LayerPlan | None = None) -> dict[str, Any]:
    from ..plan import plan_mix

    return plan_mix(plan, None if layer is None else [layer])._asdict()


def mean_over_heads(plan: ParoPlan, figure: str) -> float:
    """Mean of a figure of `HeadRecord` over all layers, heads and bins."""
    values = [
        value for layer in plan.layers for head in layer.heads for value in getattr(head, figure)
    ]
    return float(sum(values) / len(values))


def affine_use(layer: LayerPlan) -> dict[str, int]:
    """How many key/value heads use each part of channel_affine."""
    return {
        name: int((layer.channel_affine[row] != _IDENTITY[row]).any(axis=-1).sum())
        for row, name in enumerate(AFFINE_ROWS)
    }


def _describe_layer(plan: ParoPlan, layer: LayerPlan) -> dict[str, Any]:
    from ..plan import EFFECT, TIME_SHARE

    return {
        "name": layer.name,
        "qk_bits": layer.qk_bits,
        "pv_bits": layer.pv_bits,
        "bits_reason": layer.bits_reason,
        "measured_effect": plan.calibration.of_layer(EFFECT, layer.name),
        "time_share": plan.calibration.of_layer(TIME_SHARE, layer.name),
        "kv_heads": layer.channel_affine.shape[1],
        "head_dim": layer.channel_affine.shape[2],
        "affine_heads": affine_use(layer),
        "smoothed": layer.rotation is not None,
        "rotated_heads": None
        if layer.rotation is None
        else (layer.rotation[:, 0] != 0).astype(int).tolist(),
        "mix": _describe_mix(plan, layer),
        "fine_blocks": layer.fine_blocks().T.tolist(),
        "dynamic_blocks": None if layer.dynamic_blocks is None else layer.dynamic_blocks.T.tolist(),
        "corrected_heads": None
        if layer.corrected_heads is None
        else layer.corrected_heads.tolist(),
        "heads": [to_builtins(head) for head in layer.heads],
    }
