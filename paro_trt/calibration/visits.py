"""Dense runs and replays, shared by every process that works on one calibration."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ModelError, ParoError
from ..families.base import AttentionSite
from .calls import RecordedCall
from .capture import capture_attention
from .cost import layers_note, time_note
from .fp16_guard import peak_arrays, recorded_peaks
from .inputs import LayerInputs
from .progress import Progress
from .run import CalibrationRun, Capture
from .unfinished import UnfinishedRun
from .work import Contribution, WorkDirectory

Learn: TypeAlias = Callable[[int, Capture, LayerInputs], Contribution]
"""(index of the layer, capture, its attention inputs) -> what is learned of them."""

StateName: TypeAlias = Callable[[int, Capture], str]
"""(index of the layer, capture) -> the state that the contribution belongs to."""

Measure: TypeAlias = Callable[
    [Capture, RecordedCall, Sequence[int]], Iterable[tuple[int, Contribution]]
]
"""(capture, its call, indices of layers) -> what is learned of each of these layers, one by one."""

_POLL_SECONDS = 0.5
_TIMED_STEPS = 2
"""Steps of the first dense run after which the time of the whole is estimated."""


class Visits:
    """Records every prompt once, then shows each stage the captures that a layer still lacks."""

    def __init__(self, run: CalibrationRun, store: WorkDirectory, progress: Progress) -> None:
        self._run, self._store, self._progress = run, store, progress

    def record(self) -> None:
        """One dense run for each prompt that has none yet."""
        run = self._run
        steps = max(run.recorded_steps())

        def of_prompt(prompt: int) -> None:
            peaks: dict[str, Tensor] = {}
            unfinished = UnfinishedRun(self._store.run_directory(prompt), peaks)
            resumed, started = unfinished.calls > 0, time.perf_counter()

            def on_step(step: int) -> None:
                self._progress.advance()
                if prompt == 0 and not resumed and step == min(_TIMED_STEPS, steps):
                    seconds = (time.perf_counter() - started) / step
                    self._progress.note(time_note(run, seconds))

            with (
                recorded_peaks(run.loaded.model, peaks),
                unfinished.continued(run.source.models),
            ):
                calls = run.source.record(
                    prompt, run.settings.seed + prompt, run.recorded_steps(), on_step
                )
            try:
                for step, call in calls.items():
                    require_finite(call, step)
            except ModelError:
                # A run that goes on from these calls would be broken again.
                unfinished.remove()
                raise
            for step, call in calls.items():
                call.save(self._store.call_file(prompt, step))
            learned = Contribution({}, peak_arrays(peaks))
            self._store.add(run_state(prompt), prompt, "run", learned)
            unfinished.remove()

        def done(prompt: int) -> int:
            return steps if self._store.captures(run_state(prompt)) else 0

        self._share("dense runs", dict.fromkeys(run.prompts_used, steps), done, of_prompt)

    def visit(
        self, stage: str, captures: Sequence[Capture], state: StateName, learn: Learn
    ) -> None:
        """Replay every capture that a layer still lacks and store what is learned from it."""
        by_prompt = _by_prompt(captures)

        def of_prompt(prompt: int) -> None:
            for capture in by_prompt[prompt]:
                if layers := self._lacking(capture, state):
                    self._replay(capture, layers, state, learn)
                    self._progress.advance()
            self._fold(by_prompt, state)

        def done(prompt: int) -> int:
            return sum(not self._lacking(capture, state) for capture in by_prompt[prompt])

        totals = {prompt: len(of) for prompt, of in by_prompt.items()}
        self._share(stage, totals, done, of_prompt)

    def visit_calls(
        self, stage: str, captures: Sequence[Capture], state: StateName, measure: Measure
    ) -> None:
        """Show every capture's call to `measure` and store what it yields for a layer at once; the
        first layer's time says how long the rest takes."""
        by_prompt = _by_prompt(captures)
        timed = False

        def of_prompt(prompt: int) -> None:
            nonlocal timed
            for capture in by_prompt[prompt]:
                if layers := sorted(self._lacking(capture, state)):
                    call, started = self.recorded_call(capture), time.perf_counter()
                    for layer, learned in measure(capture, call, layers):
                        self._store.add(state(layer, capture), prompt, capture.name, learned)
                        self._progress.advance()
                        if not timed:
                            timed, seconds = True, time.perf_counter() - started
                            left = sum(len(self._lacking(of, state)) for of in captures)
                            self._progress.note(layers_note(stage, seconds, left))
            self._fold(by_prompt, state)

        layers = len(self._run.sites)

        def done(prompt: int) -> int:
            return sum(layers - len(self._lacking(of, state)) for of in by_prompt[prompt])

        totals = {prompt: layers * len(of) for prompt, of in by_prompt.items()}
        self._share(stage, totals, done, of_prompt)

    def recorded_call(self, capture: Capture) -> RecordedCall:
        """What a dense run recorded."""
        return RecordedCall.load(self._store.call_file(capture.prompt, capture.step))

    def _share(
        self,
        stage: str,
        totals: Mapping[int, int],
        done: Callable[[int], int],
        work: Callable[[int], None],
    ) -> None:
        """Do the work of every prompt that no other process has done or holds, and wait for those.

        Args:
            stage: for the progress.
            totals: units of work of each prompt.
            done: how many of a prompt's are finished.
            work: does the rest of a prompt's, and advances the progress by a unit each.
        """
        finished = {prompt: done(prompt) for prompt in totals}
        self._progress.start(stage, sum(totals.values()), sum(finished.values()))
        waiting = False
        while pending := [prompt for prompt in totals if finished[prompt] < totals[prompt]]:
            held = []
            for prompt in pending:
                with self._store.lock(f"prompt{prompt}") as mine:
                    before = finished[prompt]
                    finished[prompt] = done(prompt)
                    # What other processes finished in the meantime.
                    for _ in range(finished[prompt] - before):
                        self._progress.advance()
                    if not mine:
                        held.append(prompt)
                    elif finished[prompt] < totals[prompt]:
                        with _memory_explained():
                            work(prompt)
                        finished[prompt] = totals[prompt]
            if held and len(held) == len(pending):
                if not waiting:
                    owner = self._store.owner(f"prompt{held[0]}")
                    self._progress.note(f"{stage}: waiting for prompt {held[0]}, held by {owner}")
                waiting = True
                time.sleep(_POLL_SECONDS)

    def _lacking(self, capture: Capture, state: StateName) -> set[int]:
        return {
            layer
            for layer in range(len(self._run.sites))
            if capture.name not in self._store.captures(state(layer, capture))
        }

    def _replay(
        self, capture: Capture, layers: Collection[int], state: StateName, learn: Learn
    ) -> None:
        call = self.recorded_call(capture)

        def consume(
            layer: int, site: AttentionSite, query: Tensor, key: Tensor, value: Tensor, scale: float
        ) -> None:
            if layer in layers:
                inputs = LayerInputs(site, query, key, value, scale, call.key_length)
                inputs.check(self._run.tokens)
                learned = learn(layer, capture, inputs)
                self._store.add(state(layer, capture), capture.prompt, capture.name, learned)

        run = self._run
        capture_attention(run.loaded, run.geometry, call, run.source.device, consume)

    def _fold(self, by_prompt: Mapping[int, Sequence[Capture]], state: StateName) -> None:
        for layer in range(len(self._run.sites)):
            captures: dict[str, list[list[str]]] = {}
            for prompt, of_prompt in sorted(by_prompt.items()):
                for capture in of_prompt:
                    of_state = captures.setdefault(state(layer, capture), [])
                    of_state += [[] for _ in range(prompt + 1 - len(of_state))]
                    of_state[prompt].append(capture.name)
            for name, wanted in captures.items():
                self._store.fold(name, wanted)


def _by_prompt(captures: Sequence[Capture]) -> dict[int, list[Capture]]:
    by_prompt: dict[int, list[Capture]] = {}
    for capture in captures:
        by_prompt.setdefault(capture.prompt, []).append(capture)
    return by_prompt


def run_state(prompt: int) -> str:
    """The state that says that a prompt was recorded, and holds layers' peaks."""
    return f"run-{prompt}"


def require_finite(call: RecordedCall, step: int) -> None:
    """Raise ModelError if the latents that enter a step hold NaN or infinity."""
    latents: NDArray[Any] | Tensor = call.arguments["hidden_states"]
    if not bool(torch.as_tensor(latents).isfinite().all()):
        raise ModelError(
            f"latents of the dense run at step {step}",
            expected="finite values",
            actual="NaN or infinity",
            remedy="check the weights, or load the model in float32",
        )


@contextmanager
def _memory_explained() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ParoError(
            "GPU memory",
            expected="room for the model and one layer's analysis",
            actual=str(error).splitlines()[0][:200],
            remedy="finished work is kept; run the same again with offload='model' or a smaller "
            "memory (--offload model, --memory)",
        ) from error
