"""Videos of the included pipeline under a policy, compared with those of dense attention."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor

from paro_trt.calibration.inputs import HeadInputs
from paro_trt.files import atomic_write
from paro_trt.op.spec import CORRECTION_ROWS, FINE_SUMMARIES
from paro_trt.verification.metrics import psnr, ssim

from .blocks import Choice, Kind
from .calibrated import Calibrated
from .clusters import SvgEar
from .included import included_pipeline
from .policies import (
    COUNTED_SVG_EAR,
    ONE_BIN_2,
    STATIC_2,
    VERSION_1,
    VERSION_2,
    Policy,
    make_policy,
)
from .rendering import STEPS, rendered
from .sources import BLOCK_K, BLOCK_Q, BLOCKS_PER_RUN, LayerCall, Source

CELLS = tuple(
    (name, cost)
    for name in (VERSION_2, ONE_BIN_2, STATIC_2, "SVG-EAR", COUNTED_SVG_EAR, VERSION_1, "Sol-Attn")
    for cost in (0.30, 0.10)
)
"""Version 2 and 1, and the best policies of other projects by attention error."""

FIRST_SEED = 5000
"""Of the videos: no capture has it."""


@dataclass(frozen=True)
class VideoQuality:
    """One video under one policy, against dense attention; psnr in dB."""

    policy: str
    cost: float
    video: int
    psnr: float
    ssim: float


def measure_videos(
    source: Source,
    videos: int,
    path: Path,
    cells: Sequence[tuple[str, float]] = CELLS,
    steps: int = STEPS,
) -> None:
    """Measure what `path` lacks, all cells of a video before the next video.

    Args:
        source: captures of the included pipeline, to make policies of.
        videos: how many; each has another seed, and the held-out prompts come in turn.
        path: JSON of `VideoQuality`, written after every video of a policy.
        cells: policies and costs.
        steps: of each video.
    """
    calibrated = Calibrated(source)
    pipe = included_pipeline()
    policies: dict[tuple[str, float], Policy | SvgEar] = {}
    found = load_videos(path) if path.exists() else []
    for video in track(range(videos), description="videos"):
        done = {(x.policy, x.cost) for x in found if x.video == video}
        missing = [cell for cell in cells if cell not in done]
        seed = FIRST_SEED + video
        dense = rendered(pipe, video, seed, steps) if missing else torch.empty(0)
        for cell in missing:
            if cell not in policies:
                policies[cell] = make_policy(*cell, calibrated)
            picture = rendered(
                pipe, video, seed, steps, lambda call, cell=cell: _attended(policies[cell], call)
            )
            quality = psnr(picture, dense, 1.0), ssim(picture, dense, 1.0)
            found.append(VideoQuality(*cell, video, *quality))
            with atomic_write(path) as file:
                file.write(json.dumps([asdict(x) for x in found]).encode())


def load_videos(path: Path) -> list[VideoQuality]:
    """Read what `measure_videos` wrote."""
    return [VideoQuality(**values) for values in json.loads(path.read_text())]


def _attended(policy: Policy | SvgEar, call: LayerCall) -> Tensor:
    """[S, H, D] under a policy that judges all rows."""
    output = torch.empty_like(call.query)
    if isinstance(policy, SvgEar):
        orders = policy.orders(call)
        for head, rows in enumerate(policy.attend(call)[0]):
            output[orders[head], head] = rows
        return output
    choices = policy.choose(call)
    assert choices is not None  # the costs of `CELLS` are above the forced blocks
    for head, choice in enumerate(choices):
        order = policy.calibrated.source.orders[choice.order]
        output[order, head] = chosen_attention(call.head(head), order, choice)
    return output


def chosen_attention(inputs: HeadInputs, order: Tensor, choice: Choice) -> Tensor:
    """Output [S, D] of one head in its order, computed on the chosen keys alone."""
    channels = inputs.query.shape[1]
    query = (inputs.query[order] * inputs.scale).view(-1, BLOCK_Q, channels)
    key, value = (x[order].view(-1, BLOCK_K, channels) for x in (inputs.key, inputs.value))
    fine_key, fine_value = (x.unflatten(1, (FINE_SUMMARIES, -1)).mean(dim=2) for x in (key, value))
    coarse_key, coarse_value = key.mean(dim=1, keepdim=True), value.mean(dim=1, keepdim=True)
    sources = {
        Kind.EXACT: (key, value),
        Kind.FINE: (fine_key, fine_value),
        Kind.COARSE: (coarse_key, coarse_value),
    }
    means = query.view(-1, CORRECTION_ROWS, channels).mean(dim=1)
    dense_means = means
    if choice.corrected:
        dense_means = _softmax_attention(means, key.flatten(0, 1), value.flatten(0, 1))
    outputs = []
    for index, (rows, kinds) in enumerate(zip(query, choice.kinds, strict=True)):
        keys, values, bias = [], [], []
        for kind, (all_keys, all_values) in sources.items():
            listed = kinds == kind
            keys.append(all_keys[listed].flatten(0, 1))
            values.append(all_values[listed].flatten(0, 1))
            weight = math.log(BLOCK_K / all_keys.shape[1])
            bias.append(rows.new_full((len(keys[-1]),), weight))
        attended = torch.cat(keys), torch.cat(values), torch.cat(bias)
        output = _softmax_attention(rows, *attended)
        if choice.corrected:
            run = slice(index // BLOCKS_PER_RUN, index // BLOCKS_PER_RUN + 1)
            output = output + dense_means[run] - _softmax_attention(means[run], *attended)
        outputs.append(output)
    return torch.cat(outputs)


def _softmax_attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | float = 0.0
) -> Tensor:
    return (query @ key.T + bias).softmax(dim=1) @ value
