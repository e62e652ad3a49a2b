"""A plan at a glance: the cards and facts at the top of the page."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from ..plan import ParoPlan, plan_mix
from .measured import MeasuredFigures
from .schedule import ScheduleBin
from .text import TIMES, percent


@dataclass(frozen=True)
class Card:
    """One figure, large.

    Args:
        label: what it is.
        value: the figure.
        note: one line more.
        share: in [0, 1], drawn as a bar below; None draws none.
    """

    label: str
    value: str
    note: str
    share: float | None = None


def cards(
    plan: ParoPlan, bins: tuple[ScheduleBin, ...], measured: MeasuredFigures, plan_bytes: int
) -> tuple[Card, ...]:
    """The cards of a page."""
    density = plan.density()
    mass = sum(item.mass for item in bins) / len(bins)
    return (
        Card("Density", percent(density), "of all blocks are attended", density),
        Card("Attention mass", percent(mass), "of the attention is in them", min(mass, 1.0)),
        _error_card(bins, measured),
        _speed_card(measured),
        _bits_card(plan),
        Card("Plan file", _file_size(plan_bytes), f"{plan.bins} mask set{_s(plan.bins)} a head"),
    )


def facts(plan: ParoPlan) -> dict[str, str]:
    """What the plan is for, by name."""
    grid, text = plan.grid, plan.text
    heads = Counter(len(layer.heads) for layer in plan.layers)
    per_layer = " or ".join(map(str, sorted(heads)))
    facts = {
        "grid": f"{grid.frames} {TIMES} {grid.height} {TIMES} {grid.width}",
        "tokens": f"{plan.tokens:,}",
        "text tokens": _text_tokens(plan),
        f"layers {TIMES} heads": f"{len(plan.layers)} {TIMES} {per_layer}",
        "blocks": f"{plan.query_blocks:,} {TIMES} {plan.key_blocks:,}",
        "block size": f"{plan.block_q} queries {TIMES} {plan.block_k} keys",
        "off the mask": "pooled into summary tokens" if plan.pool_dropped else "dropped",
        **_mix_facts(plan),
    }
    return facts if text.count else {k: v for k, v in facts.items() if k != "text tokens"}


def _mix_facts(plan: ParoPlan) -> dict[str, str]:
    """What a query meets, of plans that use what version 2 of the format adds."""
    if not plan.mixes:
        return {}
    mix = plan_mix(plan)
    shares = f"{percent(mix.exact)} / {percent(mix.fine)} / {percent(mix.coarse)}"
    facts = {"keys a query meets": percent(mix.cost), "exact / fine / coarse blocks": shares}
    least, most = mix.dynamic_blocks
    if most:
        facts["blocks chosen at run time"] = f"{least} to {most} a query block"
    if mix.corrected_heads:
        facts["corrected heads"] = f"{mix.corrected_heads} of {mix.heads}"
    return facts


def _error_card(bins: tuple[ScheduleBin, ...], measured: MeasuredFigures) -> Card:
    predicted = percent(sum(item.predicted_error for item in bins) / len(bins))
    note = f"relative L2; predicted {predicted}, mean over heads"
    if measured.heldout_error is None:
        return Card("Attention error", predicted, "predicted; not measured on held-out prompts")
    return Card("Held-out error", percent(measured.heldout_error), note)


def _speed_card(measured: MeasuredFigures) -> Card:
    speed = measured.speed
    if speed is None:
        return Card("Model speed", "—", "attention was not timed at calibration")
    note = f"forecast; attention {speed.attention:.2f}{TIMES}"
    return Card("Model speed", f"{speed.model:.2f}{TIMES}", note)


def _bits_card(plan: ParoPlan) -> Card:
    counts = Counter(f"{layer.qk_bits} / {layer.pv_bits}" for layer in plan.layers)
    (most, number), *others = counts.most_common()
    smoothed = sum(layer.rotation is not None for layer in plan.layers)
    if not others:
        note = "in every layer" + (", 4-bit QK smoothed" if smoothed == len(plan.layers) else "")
        return Card("Bits, QK / PV", most, note)
    rest = ", ".join(f"{bits}: {count}" for bits, count in others)
    return Card("Bits, QK / PV", most, f"in {number} layers; {rest}")


def _text_tokens(plan: ParoPlan) -> str:
    padded = ", padded" if plan.text.padded else ""
    return f"{plan.text.count:,}, {plan.text.position.value}{padded}"


def _file_size(size: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size} B"


def _s(count: int) -> str:
    return "" if count == 1 else "s"
