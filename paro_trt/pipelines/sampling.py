"""One call of a pipeline: its frames, the time of every step, and the peak of memory."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..calibration.progress import Progress
from ..errors import ModelError, ParoError
from ..models.contents import first_line
from ..models.pipeline_errors import pipeline_call
from .placement import execution_device

_OUT_OF_MEMORY = ("can't allocate memory", "out of memory")


@dataclass(frozen=True, eq=False)
class Sample:
    """What a pipeline made, and what it took.

    Args:
        frames: float32 [F, H, W, 3] in 0..1; F is 1 for an image.
        seconds: of the whole call: text, denoising and decoding.
        step_seconds: of each denoising step; the first has the warm-up in it.
        peak_bytes: on a GPU, most memory that its tensors took during the call; on a CPU, most
            memory of the process until now.
    """

    frames: NDArray[np.float32]
    seconds: float
    step_seconds: tuple[float, ...]
    peak_bytes: int


def sample(pipe: Any, arguments: Mapping[str, Any], stage: str, progress: Progress) -> Sample:
    """Call a pipeline and take its first video or image.

    Args:
        pipe: the pipeline.
        arguments: of its call, with output_type "np".
        stage: what `progress` calls it.
        progress: told of every step.

    Raises:
        ArgumentError: the pipeline refuses an argument.
        ModelError: memory runs out, or pixels are NaN or infinite.
    """
    device = execution_device(pipe)
    clock = _StepClock(device, stage, progress)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    began = clock.now()
    with _shown_by(clock, pipe), pipeline_call(pipe), _memory_explained(pipe), torch.no_grad():
        result = pipe(**arguments)
    seconds = clock.now() - began
    frames = _first_frames(result)
    broken = int((~np.isfinite(frames)).sum())
    if broken:
        raise ModelError(
            "the pictures",
            expected="finite pixels",
            actual=f"{broken} of {frames.size} that are NaN or infinite",
            remedy="float16 may overflow: try --dtype bfloat16 or float32",
        )
    return Sample(frames, seconds, tuple(clock.steps), _peak_bytes(device))


class _StepClock:
    """In place of a pipeline's progress bar, which all of them advance once a step."""

    def __init__(self, device: torch.device, stage: str, progress: Progress) -> None:
        self._device, self._stage, self._progress = device, stage, progress
        self.steps: list[float] = []
        self._last = 0.0

    def now(self) -> float:
        """Seconds, after what the device still had to do."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def __call__(self, iterable: Iterable[Any] | None = None, total: int | None = None) -> Any:
        items = None if iterable is None else list(iterable)
        self._progress.start(self._stage, total or len(items or ()), 0)
        self._last = self.now()
        return self if items is None else self._each(items)

    def _each(self, items: list[Any]) -> Iterator[Any]:
        for item in items:
            yield item
            self.update()

    def __enter__(self) -> _StepClock:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, count: int = 1) -> None:
        """`count` steps are done."""
        now = self.now()
        self.steps += [(now - self._last) / count] * count
        self._last = now
        for _ in range(count):
            self._progress.advance()


@contextmanager
def _shown_by(clock: _StepClock, pipe: Any) -> Iterator[None]:
    had = vars(pipe).get("progress_bar")
    pipe.progress_bar = clock
    try:
        yield
    finally:
        if had is None:
            del pipe.progress_bar
        else:
            pipe.progress_bar = had


@contextmanager
def _memory_explained(pipe: Any) -> Iterator[None]:
    """One error of ours where memory runs out inside a pipeline."""
    try:
        yield
    except ParoError:
        raise
    except (RuntimeError, MemoryError) as error:
        memory = isinstance(error, (torch.OutOfMemoryError, MemoryError))
        if not memory and not any(said in str(error) for said in _OUT_OF_MEMORY):
            raise
        raise ModelError(
            type(pipe).__name__,
            expected="enough memory for this size",
            actual=first_line(error) if str(error) else "out of memory",
            remedy="use --offload model or group, a smaller size, or pipe.vae.enable_tiling()",
        ) from error


def _first_frames(result: Any) -> NDArray[np.float32]:
    videos = getattr(result, "frames", None)
    if videos is not None:
        return np.asarray(videos[0], dtype=np.float32)
    images = getattr(result, "images", None)
    if images is None:
        raise ModelError(
            type(result).__name__, expected="a pipeline output with frames or images",
            actual="neither",
        )  # fmt: skip
    return np.asarray(images[:1], dtype=np.float32)


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
