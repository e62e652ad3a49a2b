"""Attention errors of all modes on held-out captures, dense and at density .3."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from paro_trt.calibration.op_error import dense_rows
from paro_trt.calibration.quantize import VARIANTS
from paro_trt.files import atomic_write
from paro_trt.op.blocks import Precision, prepare_keys
from paro_trt.op.quantization import Quantized, quantize
from paro_trt.op.reference import attend_query_block, prepare_query_block

from ..quality.calibrated import Calibrated
from ..quality.sources import LayerCall, Source, Split
from .modes import DENSITY, EXACT, MODES, Bits
from .planned import Agreement, Planned, plan_layer

PV_TRIALS = (
    "PV 4, V less block mean",
    "PV 4, V scale of least squared error",
    "PV 4, V less block mean, scale of least squared error",
)
"""Values that 4 bits could carry instead; not in the op."""

SMOOTHED = Bits(4, 16, smoothed=True)


@dataclass(frozen=True)
class CallError:
    """One mode in one held-out call of a layer.

    sparse: at density .3, else all blocks are exact; error: |A - dense| / |dense| over all judged
    rows and heads; cosine: of A and dense.
    """

    mode: str
    sparse: bool
    half: int
    prompt: int
    error: float
    cosine: float


@dataclass(frozen=True)
class LayerFound:
    """A layer's held-out calls, and what prepares its smoothed keys on calibration captures.

    variants: errors of smoothed query x key, plain channels first, then rotated ones, in the order
    of `VARIANTS`; rotated: heads that the calibration rotates, of `heads`.
    """

    layer: int
    heads: int
    rotated: int
    variants: list[float]
    calls: list[CallError] = field(default_factory=list)


def measure_errors(source: Source, prompts: int, block_q: int, path: Path) -> list[LayerFound]:
    """Measure the layers that `path` lacks, and write it after each.

    Args:
        source: captures in splits.
        prompts: held-out prompts of each layer and half of the schedule, at most.
        block_q: rows of a query block.
        path: JSON of `LayerFound`.
    """
    found = load_errors(path) if path.exists() else []
    calibrated = Calibrated(source)
    for layer in source.layers:
        if layer in {known.layer for known in found}:
            continue
        planned = plan_layer(source, calibrated, layer, block_q)
        of_layer = planned.errors[True]
        variants = np.sqrt(of_layer["qk4"].sum(axis=1) / of_layer["energy"].sum())
        rotation = planned.choices[SMOOTHED].rotation
        assert rotation is not None  # of a smoothed mode
        calls = [call for call in source.of(Split.HELDOUT, layer) if call.prompt < prompts]
        measured = [
            error
            for call in track(calls, description=f"{source.name}, layer {layer}")
            for error in _call_errors(call, planned)
        ]
        rotated = int((rotation[:, 0] != 0).sum())
        found.append(LayerFound(layer, len(rotation), rotated, variants.tolist(), measured))
        with atomic_write(path) as file:
            file.write(json.dumps([asdict(known) for known in found]).encode())
    return found


def load_errors(path: Path) -> list[LayerFound]:
    """Read what `measure_errors` wrote."""
    return [
        LayerFound(**{**layer, "calls": [CallError(**call) for call in layer["calls"]]})
        for layer in json.loads(path.read_text())
    ]


def _call_errors(call: LayerCall, planned: Planned) -> list[CallError]:
    agreements = {
        (str(bits), sparse): planned.agreement(call, bits, sparse)
        for bits in (EXACT, *MODES)
        for sparse in (False, True)
        if sparse or bits != EXACT
    }
    agreements.update(
        {(trial, False): trial_agreement(call, planned, trial) for trial in PV_TRIALS}
    )
    return [
        CallError(mode, sparse, call.half, call.prompt, of.relative_error, of.cosine)
        for (mode, sparse), of in agreements.items()
    ]


def trial_agreement(call: LayerCall, planned: Planned, trial: str) -> Agreement:
    """Of dense attention with values that 4 bits carry in another way, and exact products."""
    total, bits, block_q = Agreement(), Bits(16, 4), planned.block_q
    config = replace(bits.config(block_q), scale=call.scale)
    for head in range(call.heads):
        inputs, of_head = call.head(head), planned.head(head, bits, None)
        order, precision = of_head.order, Precision(torch.float32, inputs.query.dtype)
        key, value = inputs.key[order], inputs.value[order]
        keys = prepare_keys(key, value, len(order), of_head.affine, None, config, precision)
        # The values of whole blocks, as `prepare_keys` preconditions them.
        shifted = (value - of_head.affine.value_mean) / of_head.affine.value_scale
        tried = tried_values(shifted.view(-1, config.block_k, value.shape[1]), trial)
        tokens = keys.tokens._replace(value=Quantized(tried, torch.ones_like(tried[:, :1, :1])))
        rows = []
        for run in planned.judged:
            query = inputs.query[order[run * block_q : (run + 1) * block_q]]
            prepared = prepare_query_block(query, of_head.affine, None, config, precision)
            rows.append(attend_query_block(prepared, [tokens], of_head.affine, config, precision))
        dense = dense_rows(inputs, order, block_q, planned.judged)
        total = total.plus(Agreement.of(torch.cat(rows), dense))
    return total


def tried_values(value: Tensor, trial: str) -> Tensor:
    """What 4 bits make of values [N, block_k, D]; block means stay as they are."""
    mean = value.mean(dim=1, keepdim=True) if "mean" in trial else torch.zeros_like(value[:, :1])
    centred = value - mean
    if "least" not in trial:
        codes, scale = quantize(centred, 4, (1,))
        return codes * scale + mean
    largest = centred.abs().amax(dim=1, keepdim=True).clamp(min=1e-30)
    best, least = torch.zeros_like(centred), torch.full_like(largest, float("inf"))
    for share in np.linspace(0.6, 1.0, 17):
        scale = largest * float(share) / 7
        rounded = (centred / scale).round().clamp(-7, 7) * scale
        error = (rounded - centred).square().sum(dim=1, keepdim=True)
        best, least = torch.where(error < least, rounded, best), torch.minimum(error, least)
    return best + mean


def error_page(name: str, block_q: int, found: Sequence[LayerFound]) -> list[str]:
    """Markdown: means over calls, and what prepares the channels of smoothed keys."""
    cells: dict[tuple[str, bool], list[CallError]] = defaultdict(list)
    for call in (call for layer in found for call in layer.calls):
        cells[call.mode, call.sparse].append(call)
    count = len(cells[str(EXACT), True])
    lines = [
        f"## {name}: {count} held-out calls of a layer, {block_q} rows in a query block", "",
        f"| bits | dense | cosine, dense | density {DENSITY} |", "|---|---|---|---|",
    ]  # fmt: skip
    for mode in dict.fromkeys(mode for mode, _ in cells):
        dense, sparse = cells.get((mode, False), []), cells.get((mode, True), [])
        texts = (
            _mean([call.error for call in dense], ".4f"),
            _mean([call.cosine for call in dense], ".3%"),
            _mean([call.error for call in sparse], ".4f"),
        )
        lines.append(f"| {mode} | {' | '.join(texts)} |")
    heads = ", ".join(f"{layer.rotated} of {layer.heads}" for layer in found)
    lines += [
        "", f"Rotated heads of each layer: {heads}.", "",
        "Error of smoothed query x key on calibration captures, by what prepares the channels:", "",
        "| key mean, equalizer | not rotated | rotated |", "|---|---|---|",
    ]  # fmt: skip
    means = np.mean([layer.variants for layer in found], axis=0).reshape(2, -1)
    for kept, (plain, rotated) in zip(VARIANTS, means.T, strict=True):
        named = " and ".join(n for n, k in zip(("mean", "equalizer"), kept, strict=True) if k)
        lines.append(f"| {named or 'none'} | {plain:.4f} | {rotated:.4f} |")
    return lines


def _mean(values: Sequence[float], form: str) -> str:
    return f"{np.mean(values):{form}}" if values else ""
