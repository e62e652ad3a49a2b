"""Forecast: the error of a plan on held-out prompts, and the speed to expect."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..families.base import AttentionSite
from ..op.quantization import ChannelAffine
from ..op.smoothing import head_signs
from ..op.spec import block_count
from .assemble import LayerDecision, mean_density, total_cost
from .calls import RecordedCall
from .capture import capture_attention, dense_attention, replay
from .cost import TIMED_FORWARDS
from .inputs import LayerInputs
from .op_error import PlannedHead, attended_rows, dense_rows, head_extras
from .passes import head_orders, quantized_config, rotation_on
from .progress import Progress
from .run import CalibrationRun
from .statistics import sampled_query_blocks

HELDOUT_PROMPTS = 1
"""Held-out prompts measured; each costs a dense run."""

WORTHWHILE_SPEEDUP = 1.1
"""Below this the forecast says that PARO will hardly pay off."""


class Forecast(NamedTuple):
    """Figures and sentences for the plan's record.

    measured: relative L2 errors of attention outputs ("heldout_error", and of each layer
    "heldout_error.<name>"), and, where timed, "attention_share" of the model's time,
    "attention_speedup" and "model_speedup" to expect.
    """

    measured: dict[str, float]
    notes: tuple[str, ...]


def measure_forecast(
    run: CalibrationRun,
    layers: Sequence[LayerDecision],
    heldout: CalibrationRun | None,
    example: RecordedCall,
    progress: Progress,
) -> Forecast:
    """Measure what was decided on held-out prompts, and attention's share of the time here.

    Args:
        run: of the calibration.
        layers: what was decided.
        heldout: a run of prompts apart from those of `run`.
        example: a recorded call, for timing.
        progress: told of the held-out captures.
    """
    measured: dict[str, float] = {"density": mean_density(layers)}
    cost = total_cost(run, layers)
    if run.settings.mixes:
        measured["cost"] = cost
    if run.settings.cost is not None:
        measured["cost_asked_for"] = run.settings.cost
    notes: list[str] = []
    if heldout is None:
        notes.append("no held-out prompts: the error on prompts not calibrated on is unknown")
    else:
        errors = heldout_errors(run, layers, heldout, progress)
        for site, error in zip(run.sites, errors, strict=True):
            measured[f"heldout_error.{site.name}"] = float(np.sqrt(np.mean(error)))
        measured["heldout_error"] = float(np.sqrt(np.mean(errors)))
    if run.settings.time_attention:
        share = attention_share(run, example)
        speed = (
            expected_speed(share, mean_density(layers), run)
            if not run.settings.mixes
            else speed_of_keys(share, cost)
        )
        measured.update(speed)
        notes.append(_speed_note(run, speed))
    return Forecast(measured, tuple(notes))


def heldout_errors(
    run: CalibrationRun,
    layers: Sequence[LayerDecision],
    heldout: CalibrationRun,
    progress: Progress,
) -> NDArray[np.float64]:
    """Squared relative L2 errors f64 [layers, captures] of attention, PARO against dense.

    Every layer sees the dense model's inputs, so that errors of earlier layers do not add up.
    """
    captures, steps = heldout.captures(), max(heldout.recorded_steps())
    errors = np.zeros((len(layers), len(captures)))
    progress.start("held-out error", steps * len(heldout.prompts_used) + len(captures), 0)
    calls: Mapping[int, RecordedCall] = {}
    for column, capture in enumerate(captures):
        if column == 0 or capture.prompt != captures[column - 1].prompt:
            seed = heldout.settings.seed + capture.prompt
            calls = heldout.source.record(
                capture.prompt, seed, heldout.recorded_steps(), lambda _step: progress.advance()
            )
        call = calls[capture.step]

        def consume(
            layer: int, site: AttentionSite, query: Tensor, key: Tensor, value: Tensor,
            scale: float, column: int = column, mask_bin: int = capture.mask_bin,
            key_length: int | None = call.key_length,
        ) -> None:  # fmt: skip
            inputs = LayerInputs(site, query, key, value, scale, key_length)
            of_heads = head_errors(run, layers[layer], mask_bin, inputs)
            errors[layer, column] = of_heads[0].sum() / max(of_heads[1].sum(), 1e-300)

        capture_attention(run.loaded, run.geometry, call, heldout.source.device, consume)
        progress.advance()
    return errors


def head_errors(
    run: CalibrationRun, decision: LayerDecision, mask_bin: int, inputs: LayerInputs
) -> NDArray[np.float64]:
    """f64 [2, H]: squared error of PARO and energy of dense attention, at sampled query blocks."""
    settings = run.settings
    config = quantized_config(settings, decision.quantization)
    orders = head_orders(run.candidates, decision.orders)
    masks = torch.from_numpy(decision.masks.mask[mask_bin])
    device = inputs.query.device
    orders, masks = orders.to(device), masks.to(device)
    extras = head_extras(decision.masks, mask_bin, device)
    affine = torch.from_numpy(decision.quantization.channel_affine).to(device)
    rotation = rotation_on(decision.quantization, device)
    total = block_count(inputs.length, settings.block_q)
    blocks = sampled_query_blocks(total, settings.error_query_blocks)
    result = np.empty((2, inputs.site.heads))
    for head in range(inputs.site.heads):
        kv_head = head * inputs.site.kv_heads // inputs.site.heads
        of_head = ChannelAffine.of_head(affine, kv_head, config)
        signs = head_signs(rotation, kv_head)
        planned = PlannedHead(orders[head], masks[head], of_head, *extras[head], signs)
        dense = dense_rows(inputs.head(head), planned.order, settings.block_q, blocks)
        sparse = attended_rows(inputs.head(head), planned, config, blocks)
        result[:, head] = (
            float((sparse - dense).double().square().sum()),
            float(dense.double().square().sum()),
        )
    return result


def attention_share(run: CalibrationRun, call: RecordedCall) -> float:
    """Share of a dense forward's time that the sites' attention takes, on this machine."""
    device = run.source.device
    spent = [0.0]

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    def timed(
        padding: Tensor | None,
        _site: AttentionSite,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scale: float,
    ) -> Tensor:
        start = now()
        output = dense_attention(query, key, value, scale, padding)
        spent[0] += now() - start
        return output

    shares = []
    for _ in range(1 + TIMED_FORWARDS):
        spent[0], start = 0.0, now()
        replay(run.loaded, run.geometry, call, device, timed)
        shares.append(spent[0] / (now() - start))
    # The first forward pays for allocations that later ones do not.
    return median(shares[1:])


def expected_speed(share: float, density: float, run: CalibrationRun) -> dict[str, float]:
    """Amdahl's law, for kernels as fast a block as dense attention.

    Every query block also meets one summary token for each key block when dropped blocks are
    pooled: NK more keys in addition to density * S.
    """
    pooled = block_count(run.tokens, run.settings.block_k) if run.settings.pool_dropped else 0
    return speed_of_keys(share, density + pooled / run.tokens)


def speed_of_keys(share: float, keys: float) -> dict[str, float]:
    """Amdahl's law where a query meets `keys` * S keys, and attention has a share of the time."""
    attention = 1.0 / keys
    return {
        "attention_share": share,
        "attention_speedup": attention,
        "model_speedup": 1.0 / (1.0 - share + share / attention),
    }


def _speed_note(run: CalibrationRun, speed: dict[str, float]) -> str:
    device = run.source.device.type
    note = (
        f"attention takes {speed['attention_share']:.0%} of the dense model's time at "
        f"{run.tokens} tokens on this machine ({device}); at this density expect attention "
        f"{speed['attention_speedup']:.2f}x and the model {speed['model_speedup']:.2f}x as fast, "
        "integer arithmetic not counted"
    )
    if speed["model_speedup"] < WORTHWHILE_SPEEDUP:
        note += "; expect little gain here: the sequence is short or the density high"
    return note
