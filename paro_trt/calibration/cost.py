"""What a calibration costs, counted before it starts: forwards of the model in every part of it."""

from __future__ import annotations

import time
from typing import NamedTuple

import torch

from .allocate import group_sizes, tried_widths
from .run import CalibrationRun

MANY_TOKENS = 8192
"""Above it a CPU takes hours for a calibration of a released model."""

TIMED_FORWARDS = 3
"""Forwards that attention's share of the time is measured on, after one to warm up."""


class ForwardCount(NamedTuple):
    """Forwards of a transformer.

    dense: of the dense runs, up to the last recorded step. orders, blocks, trials, errors: replays
    of recorded calls in the passes of these names. bits, effects: with measured effects, replays
    and predictions for them. heldout: the held-out prompt's run and its
    replays. timing: for attention's share of the time.
    """

    dense: int
    orders: int
    blocks: int
    trials: int
    errors: int
    bits: int
    effects: int
    heldout: int
    timing: int

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self)


def count_forwards(run: CalibrationRun, heldout: CalibrationRun | None) -> ForwardCount:
    """The forwards of a whole calibration, nothing of which is done yet."""
    return ForwardCount(
        dense=_dense_forwards(run),
        orders=len(run.order_captures()),
        blocks=len(run.block_captures()),
        trials=len(run.trial_captures()),
        errors=len(run.error_captures()),
        bits=len(run.error_captures()) if run.effect_captures() else 0,
        effects=_effect_forwards(run),
        heldout=0 if heldout is None else _dense_forwards(heldout) + len(heldout.captures()),
        timing=1 + TIMED_FORWARDS if run.settings.time_attention else 0,
    )


def cost_note(run: CalibrationRun, heldout: CalibrationRun | None) -> str:
    """One line for people, shown before the first run."""
    count = count_forwards(run, heldout)
    runs = len(run.prompts_used)
    last = max(run.recorded_steps())
    passes = {
        name: getattr(count, name)
        for name in ("orders", "blocks", "trials", "errors")
        if name != "trials" or count.trials
    }
    replays = sum(passes.values())
    each = ", ".join(f"{name} {number}" for name, number in passes.items())
    parts = [
        f"{runs} dense runs to step {last} of {run.source.steps} ({count.dense} forwards)",
        f"{replays} replays in {'four' if count.trials else 'three'} passes ({each})",
    ]
    if count.effects:
        calls, levels = len(run.effect_captures()), len(run.settings.levels) - 1
        groups = max(len(group_sizes(run, layer)) for layer in range(len(run.sites)))
        of_heads = f" for each of {groups} groups of heads" if groups > 1 else ""
        parts.append(
            f"{count.bits} replays and {count.effects} forwards to measure effects ({calls} calls; "
            f"for each layer {levels} levels of blocks{of_heads} and its bits)"
        )
    if count.heldout:
        parts.append(f"{count.heldout} forwards for the held-out prompt")
    if count.timing:
        parts.append(f"{count.timing} to time attention")
    generations = count.total / (runs * sum(run.source.forwards))
    return (
        f"{run.tokens} tokens, {len(run.sites)} layers: {', '.join(parts)}; {count.total} forwards "
        f"in all, {generations:.2f} times what generating these prompts takes"
    )


def time_note(run: CalibrationRun, seconds_a_step: float) -> str:
    """An estimate from the first steps of the first dense run."""
    forward = seconds_a_step / run.source.forwards[0]
    seconds = count_forwards(run, None).total * forward
    note = (
        f"{seconds_a_step:.3g} s a step: about {_duration(seconds)} of forwards; the analysis of "
        "attention comes on top"
    )
    if run.source.device.type == "cpu" and run.loaded.dtype is not torch.float32:
        note += "; most CPUs are much faster in float32 (--dtype float32)"
    return note


def layers_note(stage: str, seconds: float, left: int) -> str:
    """An estimate for a stage from its first layer: `left` more take `seconds` each."""
    note = f"{stage}: {seconds:.3g} s a layer and call, about {_duration(seconds * left)} left"
    return f"{note} for one process"


def forward_flops(run: CalibrationRun) -> float:
    """Operations of one forward: two for each weight and token, four D for each pair of tokens in
    every head of the sites."""
    weights = sum(parameter.numel() for parameter in run.loaded.model.parameters())
    width = sum(site.heads * site.head_dim for site in run.sites)
    return 2.0 * weights * run.tokens + 4.0 * width * run.tokens**2


def slow_cpu(run: CalibrationRun) -> float | None:
    """Hours that the forwards take on this CPU, where the sequence is long; None where it is not.

    The rate is that of a float32 matrix product of this moment.
    """
    if run.tokens <= MANY_TOKENS:
        return None
    side = 1024
    matrix = torch.ones(side, side)
    started = time.perf_counter()
    torch.mm(matrix, matrix)
    rate = 2.0 * side**3 / (time.perf_counter() - started)
    return count_forwards(run, None).total * forward_flops(run) / rate / 3600


def _dense_forwards(run: CalibrationRun) -> int:
    return len(run.prompts_used) * sum(run.source.forwards[: max(run.recorded_steps())])


def _effect_forwards(run: CalibrationRun) -> int:
    """One for each option of every layer, one dense and two of the whole plan on each call, and as
    many for the negative prompt where its call was recorded."""
    levels = len(run.settings.levels) - 1
    options = sum(
        levels * len(group_sizes(run, layer)) + len(tried_widths(run, layer))
        for layer in range(len(run.sites))
    )
    calls = sum(1 + run.has_negative(capture.step) for capture in run.effect_captures())
    return calls * (options + 3)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
