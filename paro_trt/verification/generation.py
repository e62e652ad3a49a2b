"""A generated video or image: written, compared with the dense model's, and reported."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path

import torch

from ..calibration.progress import Progress
from ..errors import ArgumentError
from ..models.experts import ExpertRole
from ..pipelines.generate import DENSE, Placement, fitted, generate, opened
from ..pipelines.media import (
    VIDEO_SUFFIX,
    check_media_path,
    ffmpeg,
    side_by_side,
    to_uint8,
    write_media,
)
from ..pipelines.open import PipelineSource
from ..pipelines.placement import Offload
from ..pipelines.request import Request, frames_per_second, makes_video
from ..pipelines.sampling import Sample
from ..pipelines.variants import Variant
from ..plan import ParoPlan
from ..runtime.backends import session_for
from ..runtime.engine import EngineTurns
from ..runtime.session import Session
from ..runtime.weight_streaming import Budget
from .quality_plot import plot_quality
from .report import plain_json
from .videos import QualityBounds, VideoQuality, compare_videos


@dataclass(frozen=True)
class RunFigures:
    """What one run of a pipeline took.

    Args:
        label: who computed the transformers.
        seconds: of the whole call: text, denoising and decoding.
        step_seconds: of each denoising step; the first has the warm-up in it.
        peak_bytes: on a GPU, most memory that tensors took during the call; on a CPU, most memory
            of the process until then.
    """

    label: str
    seconds: float
    step_seconds: tuple[float, ...]
    peak_bytes: int

    @classmethod
    def of(cls, label: str, sample: Sample) -> RunFigures:
        """The figures of a sample."""
        return cls(label, sample.seconds, sample.step_seconds, sample.peak_bytes)

    @property
    def seconds_per_step(self) -> float:
        """Mean without the first step, which warms up; NaN where no step was counted."""
        steady = self.step_seconds[1:] or self.step_seconds
        return sum(steady) / len(steady) if steady else math.nan


@dataclass(frozen=True)
class GenerateReport:
    """Outcome of `paro_trt.generate`.

    Args:
        pipeline: class of the pipeline.
        prompt: what was asked for.
        seed: of the noise.
        size: (frames, height, width) in pixels.
        fps: frames a second of the file.
        run: the run that was asked for.
        dense: the dense model's, where it was to be compared with.
        quality: of the one against the other.
        files: what was written, the generated one first.
        notes: what a person should know.
        failures: a line for each bound that is not met.
    """

    pipeline: str
    prompt: str
    seed: int
    size: tuple[int, int, int]
    fps: float
    run: RunFigures
    dense: RunFigures | None
    quality: VideoQuality | None
    files: tuple[str, ...]
    notes: tuple[str, ...]
    failures: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether every bound is met."""
        return not self.failures

    def to_json(self) -> str:
        """All fields and `ok`; NaN and infinity as strings: JSON has none."""
        return json.dumps(plain_json({"ok": self.ok, **asdict(self)}), indent=2, allow_nan=False)


def generate_file(
    source: PipelineSource,
    request: Request,
    path: Path,
    *,
    plans: tuple[ParoPlan, ...],
    files: Mapping[ExpertRole, str | PathLike[str] | Session | None],
    backend: str | None,
    weight_streaming_budget: Budget,
    engine_turns: bool | None,
    compare: bool,
    bounds: QualityBounds,
    placement: Placement,
    progress: Progress,
) -> GenerateReport:
    """What `paro_trt.generate` does, its arguments sorted."""
    given = {role: file for role, file in files.items() if file is not None}
    compare = compare or bounds.any
    if compare and not plans and not given:
        raise ArgumentError(
            "compare", expected="a plan or a file to compare with the dense model", actual="neither"
        )
    if weight_streaming_budget is not None and not given:
        raise ArgumentError(
            "weight_streaming_budget",
            expected="none: it is an engine's",
            actual=str(weight_streaming_budget),
        )
    if engine_turns is None:
        engine_turns = placement.offload != Offload.NONE
    turns = EngineTurns() if engine_turns else None
    with ExitStack() as stack:
        sessions = {
            role: stack.enter_context(
                session_for(
                    file, backend, weight_streaming_budget=weight_streaming_budget, turns=turns
                )
            )
            for role, file in given.items()
        }
        variant = Variant(plans, None if given else backend, sessions)
        pipe = stack.enter_context(opened(source, variant, placement, compare=compare))
        arguments, notes = fitted(pipe, request, variant)
        check_media_path(path, video=makes_video(pipe) and arguments.get("num_frames") != 1)
        if path.suffix == VIDEO_SUFFIX:
            ffmpeg()
        for note in notes:
            progress.note(note)
        made = generate(pipe, request, arguments, variant, progress)
        dense = generate(pipe, request, arguments, DENSE, progress) if compare else None
        fps = frames_per_second(pipe, request)
    quality = None if dense is None else quality_of(made, dense)
    return GenerateReport(
        pipeline=type(pipe).__name__,
        prompt=request.prompt,
        seed=request.seed,
        size=(made.frames.shape[0], made.frames.shape[1], made.frames.shape[2]),
        fps=fps,
        run=RunFigures.of(variant.label, made),
        dense=None if dense is None else RunFigures.of(DENSE.label, dense),
        quality=quality,
        files=_write(path, made, fps, variant.label, dense, quality),
        notes=tuple(notes),
        failures=() if quality is None else bounds.failures(quality),
    )


def quality_of(actual: Sample, expected: Sample) -> VideoQuality:
    """Of one sample against another of the same size."""
    return compare_videos(torch.from_numpy(actual.frames), torch.from_numpy(expected.frames))


def _write(
    path: Path,
    made: Sample,
    fps: float,
    label: str,
    dense: Sample | None,
    quality: VideoQuality | None,
) -> tuple[str, ...]:
    """Write the sample and, with a dense one, the comparison next to it; the files' names."""
    frames = to_uint8(made.frames)
    write_media(path, frames, fps)
    if dense is None or quality is None:
        return (str(path),)
    reference = to_uint8(dense.frames)
    around = {
        path.with_name(f"{path.stem}.dense{path.suffix}"): reference,
        path.with_name(f"{path.stem}.side-by-side{path.suffix}"): side_by_side(
            reference, frames, (DENSE.label, label)
        ),
    }
    for name, pictures in around.items():
        write_media(name, pictures, fps)
    plot = path.with_name(f"{path.stem}.quality.png")
    plot_quality(quality, f"{label} against {DENSE.label}", plot)
    return tuple(map(str, (path, *around, plot)))
