"""Attention of the included pipeline, recorded in its own runs and replayed layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import WanPipeline
from rich.progress import track

from paro_trt.calibration.capture import capture_attention
from paro_trt.calibration.pipeline_source import PipelineSource
from paro_trt.files import atomic_write
from paro_trt.models.live import open_model
from samples.tiny_wan.build import PIPELINE_DIR
from samples.tiny_wan.scenes import CALIBRATION_SCENES, FRAME_SIZE, FRAMES, HELDOUT_SCENES

from .sources import BLOCK_Q, BLOCKS_PER_RUN, LayerCall, Source, Split

STEPS = 12
GUIDANCE = 3.0
CALIBRATION_STEPS = (1, 4, 7, 10)
HELDOUT_STEPS = (3, 8)
"""Captured steps, as many of each half of the schedule; those of held-out runs are others."""

PROMPTS = {
    Split.CALIBRATION: [scene.prompt for scene in CALIBRATION_SCENES[:3]],
    Split.VALIDATION: [scene.prompt for scene in CALIBRATION_SCENES[3:4]],
    Split.HELDOUT: [scene.prompt for scene in HELDOUT_SCENES[::2]],
    Split.RESEEDED: [scene.prompt for scene in HELDOUT_SCENES[::2]],
}
FIRST_SEEDS = {
    Split.CALIBRATION: 0,
    Split.VALIDATION: 100,
    Split.HELDOUT: 1000,
    Split.RESEEDED: 2000,
}


def call_arguments(steps: int = STEPS) -> dict[str, Any]:
    """Arguments of the pipeline's call in a run of so many steps."""
    return {
        "height": FRAME_SIZE,
        "width": FRAME_SIZE,
        # The VAE does not compress time; for such a VAE, WanPipeline makes one frame more.
        "num_frames": FRAMES - 1,
        "num_inference_steps": steps,
        "guidance_scale": GUIDANCE,
    }


def included_pipeline() -> WanPipeline:
    """The pipeline in float32, without a progress bar."""
    pipe = WanPipeline.from_pretrained(PIPELINE_DIR, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def half_of(step: int, steps: int = STEPS) -> int:
    """The half of the schedule that a step is in."""
    return int(step >= steps // 2)


def included_source(cache: Path) -> Source:
    """Captures of every layer; runs that are in `cache` are not made again."""
    pipe = included_pipeline()
    runs = [(split, index) for split in Split for index in range(len(PROMPTS[split]))]
    calls: dict[Split, list[LayerCall]] = {split: [] for split in Split}
    cache.mkdir(parents=True, exist_ok=True)
    for split, index in track(runs, description="recorded runs of the included pipeline"):
        path = cache / f"{split.value}-{index}.pt"
        if not path.exists():
            found = _captured(pipe, split, index)
            with atomic_write(path) as file:
                torch.save([vars(call) for call in found], file)
        calls[split] += [LayerCall(**values) for values in torch.load(path, mmap=True)]
    grid = PipelineSource(pipe, open_model(pipe), ["a"], call_arguments()).geometry
    tokens = grid.grid.tokens
    return Source(
        "included pipeline", grid.grid, grid.text,
        tuple(range(tokens // (BLOCK_Q * BLOCKS_PER_RUN))), calls,
    )  # fmt: skip


def _captured(pipe: WanPipeline, split: Split, index: int) -> list[LayerCall]:
    """One run of a prompt, and its calls at the captured steps."""
    prompts: Sequence[str] = PROMPTS[split]
    learns = split in (Split.CALIBRATION, Split.VALIDATION)
    steps = CALIBRATION_STEPS if learns else HELDOUT_STEPS
    source = PipelineSource(pipe, open_model(pipe), prompts, call_arguments())
    recorded = source.record(index, FIRST_SEEDS[split] + index, steps, lambda _: None)
    calls: list[LayerCall] = []
    for step, call in recorded.items():
        half = half_of(step)
        capture_attention(
            source.loaded,
            source.geometry,
            call,
            source.device,
            lambda layer, _, query, key, value, scale, half=half: calls.append(
                LayerCall(layer, half, index, query, key, value, scale)
            ),
        )
    return calls
