"""A plan as tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from . import output
from .plan_document import affine_use, mean_over_heads, mix_facts, smoothed_facts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.table import Table

    from ..plan import CalibrationRecord, HeadRecord, LayerPlan, ParoPlan

_FIGURES = ("density", "mass", "error")
_BINS_IN_LINE = 2
_MIX = ("fine", "k", "corrected")
_EFFECTS = ("effect", "time")
_EFFECTS_CAPTION = (
    "effect: error of the model's prediction that the layer adds; time: share of the plan's"
)
_MIX_CAPTION = (
    "fine: share of blocks with four summaries; k: blocks a query block chooses at run time"
)

_SMOOTHED_CAPTION = "s: 4-bit query x key is smoothed; behind it, key/value heads that are rotated"


def show_plan(plan: ParoPlan, path: Path, each_head: bool) -> None:
    """Print what a plan holds: the whole plan, its layers or heads, and how it was made."""
    output.print_facts(f"plan {path}", _facts(plan, path))
    console = output.results()
    console.print(_heads_table(plan) if each_head else _layers_table(plan))
    output.print_facts("calibration", _calibration(plan.calibration))


def _facts(plan: ParoPlan, path: Path) -> dict[str, object]:
    grid, text = plan.grid, plan.text
    layout = "none in the sequence"
    if text.count:
        layout = f"{text.count} {text.position.value}{', padded' if text.padded else ''}"
    edges = ", ".join(f"{boundary:.1f}" for boundary in plan.bin_boundaries)
    off_mask = "pooled into summary tokens" if plan.pool_dropped else "dropped, as in the paper"
    return {
        "model": f"{plan.model.class_name}, config {plan.model.config_hash[:16]}",
        "grid": f"{grid.frames} x {grid.height} x {grid.width} = {grid.tokens} tokens",
        "text tokens": layout,
        "blocks": f"{plan.query_blocks} x {plan.key_blocks} of "
        f"{plan.block_q} queries x {plan.block_k} keys",
        "blocks off the mask": off_mask,
        "schedule bins": f"{plan.bins}{f', divided at timestep {edges}' if edges else ''}",
        "orders in use": ", ".join(plan.order_names),
        "format version": plan.version,
        **_mix_facts(plan),
        **smoothed_facts(plan),
        "density": f"{plan.density():.4f}",
        "mass": f"{mean_over_heads(plan, 'mass'):.4f}",
        "predicted error": f"{mean_over_heads(plan, 'predicted_error'):.4f}",
        "size": output.file_size(path.stat().st_size),
        "content hash": plan.content_hash(),
    }


def _layers_table(plan: ParoPlan) -> Table:
    title = "layers (density, mass and predicted error: mean over heads, one figure per bin)"
    mixed, effects = plan.mixes, _effects(plan)
    right = (
        *_FIGURES, *(_MIX if mixed else ()), *(_EFFECTS if effects else ()), "QK/PV bits"
    )  # fmt: skip
    affine = "m e n c"
    made = output.table(
        title, "layer", "orders of heads", *right, affine, right=right,
        whole=("layer", "QK/PV bits", affine),
    )  # fmt: skip
    made.caption = (
        "m e n c: key/value heads that use a key mean, an equalizer, a value mean, a value scale"
        + (f"\n{_MIX_CAPTION}; corrected: heads" if mixed else "")
        + (f"\n{_SMOOTHED_CAPTION}" if smoothed_facts(plan) else "")
        + (f"\n{_EFFECTS_CAPTION}" if effects else "")
    )
    made.caption_justify = "left"
    for layer in plan.layers:
        counts = Counter(head.order for head in layer.heads)
        orders = ", ".join(f"{name} x{n}" if n > 1 else name for name, n in counts.items())
        made.add_row(
            layer.name,
            orders,
            *_figures(plan, layer.heads),
            *(_layer_mix(plan, layer) if mixed else ()),
            *(effects[layer.name] if effects else ()),
            _bits(layer),
            _affine(layer),
        )
    return made


def _effects(plan: ParoPlan) -> dict[str, tuple[str, str]]:
    """The effect and the share of time of each layer, by its name; none where they were not
    measured."""
    from ..plan import EFFECT, TIME_SHARE

    record = plan.calibration
    found = {
        layer.name: [record.of_layer(figure, layer.name) for figure in (EFFECT, TIME_SHARE)]
        for layer in plan.layers
    }
    if all(value is None for values in found.values() for value in values):
        return {}
    shown = {name: ["-" if of is None else f"{of:.4f}" for of in found[name]] for name in found}
    return {name: (effect, time) for name, (effect, time) in shown.items()}


def _heads_table(plan: ParoPlan) -> Table:
    mixed = plan.mixes
    figures = (*_FIGURES, *(_MIX if mixed else ()))
    made = output.table(
        "heads (one figure per bin)", "layer", "head", "order", *figures, right=("head", *figures)
    )
    for layer in plan.layers:
        for index, head in enumerate(layer.heads):
            name = layer.name if index == 0 else ""
            mix = _head_mix(plan, layer, index) if mixed else ()
            made.add_row(name, str(index), head.order, *_figures(plan, [head]), *mix)
        made.add_section()
    return made


def _by_bin(plan: ParoPlan, figures: Iterable[str]) -> str:
    """A figure for each bin, in lines of their own where there are too many for one."""
    return ("  " if plan.bins <= _BINS_IN_LINE else "\n").join(figures)


def _figures(plan: ParoPlan, heads: Sequence[HeadRecord]) -> tuple[str, ...]:
    """Density, mass and predicted error, each averaged over heads, bin by bin."""
    return tuple(
        _by_bin(
            plan,
            (
                f"{sum(values) / len(values):.3f}"
                for values in zip(*(getattr(head, name) for head in heads), strict=True)
            ),
        )
        for name in ("density", "mass", "predicted_error")
    )


def _mix_facts(plan: ParoPlan) -> dict[str, str]:
    """What `_facts` adds of the mix; its "blocks" are the numbers of blocks."""
    facts = mix_facts(plan)
    return {"mix of blocks": facts.pop("blocks"), **facts}


def _layer_mix(plan: ParoPlan, layer: LayerPlan) -> tuple[str, ...]:
    """Share of fine blocks and blocks chosen at run time, means over heads, bin by bin; how many
    heads are corrected."""
    dynamic, corrected = layer.dynamic_blocks, layer.corrected_heads
    return (
        _by_bin(plan, (f"{share:.3f}" for share in _fine_shares(plan, layer).mean(axis=1))),
        "0" if dynamic is None else _by_bin(plan, (f"{k:.1f}" for k in dynamic.mean(1))),
        str(0 if corrected is None else int(corrected.sum())),
    )


def _head_mix(plan: ParoPlan, layer: LayerPlan, head: int) -> tuple[str, ...]:
    dynamic, corrected = layer.dynamic_blocks, layer.corrected_heads
    return (
        _by_bin(plan, (f"{share:.3f}" for share in _fine_shares(plan, layer)[:, head])),
        "0" if dynamic is None else _by_bin(plan, (str(k) for k in dynamic[:, head])),
        "yes" if corrected is not None and corrected[head] else "",
    )


def _fine_shares(plan: ParoPlan, layer: LayerPlan) -> NDArray[np.float64]:
    """[T, H]."""
    return layer.fine_blocks() / (plan.query_blocks * plan.key_blocks)


def _bits(layer: LayerPlan) -> str:
    smoothed = "" if layer.rotation is None else f" s{layer.rotated_heads}"
    return f"{layer.qk_bits}{smoothed}/{layer.pv_bits}"


def _affine(layer: LayerPlan) -> str:
    return " ".join(str(used) for used in affine_use(layer).values())


def _calibration(record: CalibrationRecord) -> dict[str, object]:
    return {
        "prompts": "; ".join(record.prompts) or "none recorded",
        "steps": f"{record.steps}, captured {', '.join(map(str, record.captured_steps))}",
        "metrics": f"order {record.order_metric}, mask {record.mask_metric}",
        "density asked for": f"{record.density:g}",
        "seed": record.seed,
        "made by": f"paro-trt {record.tool_version}",
        **{f"measured {name}": f"{value:.4g}" for name, value in record.measured.items()},
        **{f"note {index}": note for index, note in enumerate(record.notes, 1)},
    }
