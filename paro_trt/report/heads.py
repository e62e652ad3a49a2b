"""Figures of every head, as the page's own JSON."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ..plan import LayerPlan, ParoPlan
from .measured import measured_figures
from .schedule import schedule_bins
from .text import short_names


def heads_document(plan: ParoPlan) -> dict[str, Any]:
    """What the page's tables and plots draw: plain JSON values.

    Orders are numbered by how many heads use them, most first; a head's figures stand in the
    sequence of the bins.
    """
    uses = Counter(head.order for layer in plan.layers for head in layer.heads)
    numbers = {name: number for number, (name, _) in enumerate(uses.most_common())}
    names = [layer.name for layer in plan.layers]
    return {
        "orders": [{"name": name, "heads": uses[name]} for name in numbers],
        "bins": [item.title for item in schedule_bins(plan)],
        "layers": [
            {"name": name, "short": short, **_figures(layer, numbers)}
            for name, short, layer in zip(names, short_names(names), plan.layers, strict=True)
        ],
        "heldout": measured_figures(plan).heldout_error,
        "density": plan.density(),
    }


def _figures(layer: LayerPlan, numbers: dict[str, int]) -> dict[str, Any]:
    return {
        "bits": f"{layer.qk_bits}/{layer.pv_bits}",
        "order": [numbers[head.order] for head in layer.heads],
        "density": [_rounded(head.density) for head in layer.heads],
        "mass": [_rounded(head.mass) for head in layer.heads],
        "error": [_rounded(head.predicted_error) for head in layer.heads],
    }


def _rounded(values: tuple[float, ...]) -> list[float]:
    return [float(f"{value:.5g}") for value in values]
