"""Videos of the included pipeline at density .3 in three modes, against dense attention."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from paro_trt.files import atomic_write
from paro_trt.op.api import paro_attention
from paro_trt.op.mask import pack_block_mask, tile_order
from paro_trt.verification.metrics import psnr

from ..quality.calibrated import Calibrated
from ..quality.included import included_pipeline
from ..quality.rendering import STEPS, rendered
from ..quality.report import mean_and_error
from ..quality.sources import LayerCall, Source
from .modes import Bits
from .planned import Planned, plan_layer

FIRST_SEED = 7000
"""Of the videos: no capture has it."""

MODES = (Bits(8, 8), Bits(4, 8, smoothed=True), Bits(4, 4, smoothed=True))
_ATTRIBUTES = ("block_q", "block_k", "qk_bits", "pv_bits", "pool_dropped")


@dataclass(frozen=True)
class ModePsnr:
    """One video in one mode; psnr in dB against dense attention."""

    mode: str
    video: int
    psnr: float


def measure_videos(
    source: Source, videos: int, path: Path, modes: Sequence[Bits] = MODES, steps: int = STEPS
) -> list[ModePsnr]:
    """Measure what `path` lacks on the CPU backend, all modes of a video before the next video.

    Args:
        source: captures of the included pipeline, to plan layers with.
        videos: how many; each has another seed, and the held-out prompts come in turn.
        path: JSON of `ModePsnr`, written after every video of a mode.
        modes: that are compared.
        steps: of each video.
    """
    found = load_videos(path) if path.exists() else []
    done = {(known.mode, known.video) for known in found}
    calibrated, pipe = Calibrated(source), included_pipeline()
    layers = cache(lambda: {x: plan_layer(source, calibrated, x) for x in source.layers})
    for video in track(range(videos), description="videos"):
        missing = [bits for bits in modes if (str(bits), video) not in done]
        if not missing:
            continue
        dense = rendered(pipe, video, FIRST_SEED + video, steps)
        for bits in missing:
            picture = rendered(
                pipe, video, FIRST_SEED + video, steps,
                lambda call, bits=bits: attended(layers(), call, bits),
            )  # fmt: skip
            found.append(ModePsnr(str(bits), video, psnr(picture, dense, 1.0)))
            with atomic_write(path) as file:
                file.write(json.dumps([asdict(known) for known in found]).encode())
    return found


def load_videos(path: Path) -> list[ModePsnr]:
    """Read what `measure_videos` wrote."""
    return [ModePsnr(**values) for values in json.loads(path.read_text())]


def attended(planned: Mapping[int, Planned], call: LayerCall, bits: Bits) -> Tensor:
    """[S, H, D] of a layer's call on the CPU backend; every query block is judged in the plan."""
    of_layer = planned[call.layer]
    choice, words = of_layer.choices[bits], pack_block_mask(of_layer.masks)
    rotation = None if choice.rotation is None else torch.from_numpy(choice.rotation)
    output: Tensor = paro_attention(
        *(x[None].contiguous() for x in (call.query, call.key, call.value)),
        token_order=torch.stack(list(of_layer.orders)).int(),
        head_order=torch.arange(call.heads, dtype=torch.int32),
        block_mask=torch.from_numpy(words),
        tile_order=torch.from_numpy(tile_order(words)),
        channel_affine=torch.from_numpy(choice.channel_affine),
        mask_bin=torch.tensor([call.half], dtype=torch.int32),
        key_length=torch.tensor([len(call.query)], dtype=torch.int32),
        rotation=rotation,
        scale=call.scale,
        impl="cpu",
        **{name: getattr(bits.config(), name) for name in _ATTRIBUTES},
    )
    return output[0]


def video_page(found: Sequence[ModePsnr]) -> list[str]:
    """Markdown: a video a row, means, and what each mode changes against the first one."""
    at = {(known.video, known.mode): known.psnr for known in found}
    modes = list(dict.fromkeys(known.mode for known in found))
    videos = sorted({video for video, _ in at})
    videos = [video for video in videos if all((video, mode) in at for mode in modes)]
    values = np.array([[at[video, mode] for mode in modes] for video in videos])
    lines = [f"| video | {' | '.join(modes)} |", "|---|" + "---|" * len(modes)]
    for video, row in zip(videos, values, strict=True):
        lines.append(f"| {video} | {' | '.join(f'{x:.2f}' for x in row)} |")
    lines.append(f"| mean | {' | '.join(f'{x:.2f}' for x in values.mean(axis=0))} |")
    texts = [""]
    for index in range(1, len(modes)):
        change = (values[:, index] - values[:, 0]).tolist()
        mean, spread = mean_and_error(change)
        error = f" ± {spread:.2f}" if spread is not None else ""
        texts.append(f"{mean:+.2f}{error} ({min(change):+.2f} to {max(change):+.2f})")
    return [*lines, f"| less {modes[0]} | {' | '.join(texts)} |"]
