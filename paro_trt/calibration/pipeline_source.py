"""Calls from a pipeline as its user runs it: nothing of its denoising is computed here."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, NamedTuple

import msgspec
import torch
from torch import Tensor

from ..errors import ArgumentError, ModelError
from ..families.base import Geometry, ModelCall, ModelFamily
from ..families.shared.adapt import replaced
from ..models.calls import fitted_call
from ..models.experts import ExpertRole
from ..models.load import LoadedModel
from ..models.pipeline_errors import pipeline_call
from ..models.schedules import describe_scheduler, public_config
from .calls import RecordedCall, one_sample, watched_calls
from .source import AllRecordedError, CallSource, OnStep
from .unfinished import as_output

_CALLBACK = "callback_on_step_end"

_GUIDED_CALLS = 2
"""Of a transformer in a step: for the prompt, then for the negative prompt."""

_SCALES: tuple[str, ...] = ("true_cfg_scale", "guidance_scale", "guidance_scale_2")
"""Arguments that scale the difference of the two, first the one that counts; of an expert for
steps of little noise it is the last."""


class _Rehearsed(NamedTuple):
    """What the pipeline asks of its transformers: the geometry of a call; for each step the
    timestep in 0..1000, the calls of any transformer, and whether the planned one serves it."""

    geometry: Geometry
    timesteps: tuple[float, ...]
    forwards: tuple[int, ...]
    served: tuple[int, ...]


class PipelineSource(CallSource):
    """Runs a pipeline on sentences: its own scheduler, guidance, encoders, hooks and adapters.

    Args:
        pipe: a diffusers pipeline, placed on its devices.
        loaded: the transformer of it that is planned.
        prompts: the sentences.
        arguments: of every call of the pipeline in addition to prompt and generator, such as
            height, num_inference_steps or image; those that it takes.
        text_tokens: room for text where its padded tokens join the attention; None: those of the
            longest prompt.
        partner: the pipeline's other transformer, which serves a part of the schedule.
        notes: further ones, for people.

    Raises:
        ArgumentError: no prompts, or calls with arguments that the family does not serve.
        ModelError: the pipeline does not call its transformer.
    """

    def __init__(
        self,
        pipe: Any,
        loaded: LoadedModel,
        prompts: Sequence[str],
        arguments: Mapping[str, Any],
        partner: torch.nn.Module | None = None,
        text_tokens: int | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        if not prompts:
            raise ArgumentError("prompts", expected="at least one", actual="none")
        self._pipe, self.loaded, self.texts = pipe, loaded, tuple(prompts)
        self._partner, self._notes = partner, tuple(notes)
        self.models = [loaded.model] if partner is None else [loaded.model, partner]
        self._arguments = dict(arguments)
        self.device = torch.device(pipe._execution_device)
        rehearsed = self._rehearse(0)
        self.geometry = self._common_geometry(rehearsed.geometry, text_tokens)
        self.timesteps = rehearsed.timesteps
        self.steps, self.forwards = len(rehearsed.timesteps), rehearsed.forwards
        guides = self._guidance() is not None
        self.guided = tuple(guides and calls == _GUIDED_CALLS for calls in self.forwards)
        served = rehearsed.served
        self.served = range(served[0], served[-1] + 1) if served else range(0)

    def with_texts(self, prompts: Sequence[str]) -> PipelineSource:
        """The same pipeline on other sentences."""
        arguments, count = self._arguments, self.geometry.text.count
        return PipelineSource(self._pipe, self.loaded, prompts, arguments, self._partner, count)

    def record(
        self, prompt: int, seed: int, wanted: Collection[int], on_step: OnStep
    ) -> dict[int, RecordedCall]:
        """See `CallSource`."""
        calls: dict[int, RecordedCall] = {}
        step, scale = 0, self._guidance()

        def watch(model: torch.nn.Module, arguments: Mapping[str, Any]) -> None:
            # A step's first call is that of the prompt; the negative prompt's follows.
            if model is not self.loaded.model or step not in wanted:
                return
            if step in calls:
                if self.guided[step] and scale is not None:
                    calls[step] = calls[step].guided_by(self._recorded(arguments), scale)
                return
            calls[step] = self._recorded(arguments)
            if step == max(wanted):
                raise AllRecordedError

        def next_step() -> None:
            nonlocal step
            step += 1
            on_step(step)

        with suppress(AllRecordedError), watched_calls(self.models, watch):
            self._run(prompt, seed, next_step)
        if missing := sorted(set(wanted) - set(calls)):
            raise ModelError(
                f"the dense run of prompt {prompt}",
                expected=f"a call of the transformer in step {missing[0]}, as in the rehearsal",
                actual=f"none; the run had {step} steps",
            )
        return calls

    def fingerprint(self) -> dict[str, Any]:
        """See `CallSource`."""
        scheduler = self._pipe.scheduler
        return {
            "pipeline": type(self._pipe).__name__,
            "scheduler": {
                "class": type(scheduler).__name__,
                **_described(public_config(scheduler.config)),
            },
            "call": _described(self._arguments),
            "timesteps": list(self.timesteps),
            "prompts": list(self.texts),
        }

    def notes(self) -> tuple[str, ...]:
        """See `CallSource`."""
        scheduler = self._pipe.scheduler
        described = describe_scheduler(type(scheduler).__name__, scheduler.config)
        return (f"sampled by {type(self._pipe).__name__} with its {described}", *self._notes)

    def _rehearse(self, prompt: int) -> _Rehearsed:
        """Run the pipeline with transformers that compute nothing: what does it ask of them?"""
        family, config = self.loaded.family, self.loaded.config
        first: ModelCall | None = None
        timesteps: list[float] = []
        forwards, served = [0], []

        def answer(model: torch.nn.Module, arguments: Mapping[str, Any]) -> tuple[Tensor, ...]:
            nonlocal first
            call = family.read_call(config, arguments)
            first = first or call
            if len(timesteps) < len(forwards):
                timesteps.append(float(call.timestep.max()))
                if model is self.loaded.model:
                    served.append(len(timesteps) - 1)
            forwards[-1] += 1
            nothing = (torch.zeros_like(call.latents),)
            return family.call_output(config, arguments, nothing)

        with ExitStack() as stack:
            for model in self.models:
                stack.enter_context(_answered(model, answer))
            self._run(prompt, 0, lambda: forwards.append(0))
        if first is None:
            raise ModelError(
                f"a run of {type(self._pipe).__name__}",
                expected="calls of its transformer",
                actual="none",
                remedy="remove caching or hooks that answer instead of the transformer",
            )
        # The pipeline reports the end of the last step, too.
        counted = tuple(count for count in forwards if count)
        return _Rehearsed(first.geometry, tuple(timesteps), counted, tuple(served))

    def _common_geometry(self, first: Geometry, text_tokens: int | None) -> Geometry:
        """The first prompt's geometry with room for the text of all."""
        if not first.text.padded:
            return first
        others = range(1, len(self.texts))
        counts = [first.text.count, *(self._first_call(prompt).text.count for prompt in others)]
        longest = max(counts)
        if text_tokens is not None and text_tokens < longest:
            raise ArgumentError(
                "text_tokens (--text-tokens)",
                expected=f"at least {longest}, the tokens of prompt {counts.index(longest) + 1}",
                actual=str(text_tokens),
            )
        text = msgspec.structs.replace(first.text, count=text_tokens or longest)
        return Geometry(first.grid, text)

    def _first_call(self, prompt: int) -> Geometry:
        """Of the first call that the pipeline makes for a prompt."""
        call = {"prompt": self.texts[prompt], **self._arguments}
        return first_geometry(self._pipe, self.models, self.loaded.family, call)

    def _recorded(self, arguments: Mapping[str, Any]) -> RecordedCall:
        family, config = self.loaded.family, self.loaded.config
        sample = one_sample(arguments, len(arguments["hidden_states"]))
        call = family.read_call(config, sample)
        # Refuses a call of another size, or of more text.
        fitted_call(family, config, call, self.geometry)
        length = None
        if call.geometry.text.padded:
            length = int(family.text_length(call.inputs)) + call.geometry.grid.tokens
        return RecordedCall(sample, float(call.timestep.max()), length)

    def _guidance(self) -> float | None:
        """The scale of the pipeline's guidance, where it is an argument of the call."""
        parameters = inspect.signature(type(self._pipe).__call__).parameters
        expert, names = self.loaded.expert, _SCALES
        if expert is not None and expert.role is ExpertRole.LOW_NOISE:
            names = tuple(reversed(_SCALES))
        for name in names:
            scale = self._arguments.get(name)
            if scale is None and name in parameters:
                scale = parameters[name].default
            if isinstance(scale, (int, float)):
                return float(scale)
        return None

    def _run(self, prompt: int, seed: int, next_step: Callable[[], None]) -> None:
        """One call of the pipeline; `next_step` hears of the end of every step."""
        pipe, arguments = self._pipe, dict(self._arguments)
        signature = inspect.signature(type(pipe).__call__)
        with ExitStack() as stack:
            if _CALLBACK in signature.parameters:

                def callback(_pipe: Any, _step: int, _timestep: Any, values: Any) -> Any:
                    next_step()
                    return values

                arguments[_CALLBACK] = callback
            else:
                stack.enter_context(_counted_steps(pipe.scheduler, next_step))
            if "output_type" in signature.parameters:
                arguments["output_type"] = "latent"
            stack.enter_context(quiet(pipe))
            # Also after a run that ended early: offloading waits for the end of a run.
            stack.callback(pipe.maybe_free_model_hooks)
            # Noise of a CPU generator is the same on every device.
            generator = torch.Generator("cpu").manual_seed(seed)
            stack.enter_context(pipeline_call(pipe))
            pipe(prompt=self.texts[prompt], generator=generator, **arguments)


def first_geometry(
    pipe: Any,
    models: Sequence[torch.nn.Module],
    family: ModelFamily,
    arguments: Mapping[str, Any],
) -> Geometry:
    """Tokens of the first call that a pipeline makes of its transformers; no transformer computes.

    Args:
        pipe: a diffusers pipeline.
        models: its transformers.
        family: theirs.
        arguments: of the pipeline's call, without a generator.

    Raises:
        ModelError: it calls none of them.
    """
    seen: list[Geometry] = []

    def watch(model: torch.nn.Module, call: Mapping[str, Any]) -> None:
        config: Any = model.config
        seen.append(family.read_call(dict(config), call).geometry)
        raise AllRecordedError

    with ExitStack() as stack:
        stack.enter_context(suppress(AllRecordedError))
        stack.enter_context(watched_calls(models, watch))
        stack.enter_context(quiet(pipe))
        # Offloading waits for the end of a run, which this one has not.
        stack.callback(pipe.maybe_free_model_hooks)
        stack.enter_context(pipeline_call(pipe))
        pipe(**arguments, generator=torch.Generator("cpu"))
    if not seen:
        raise ModelError(
            f"a run of {type(pipe).__name__}", expected="calls of its transformer", actual="none"
        )
    return seen[0]


@contextmanager
def _answered(
    model: torch.nn.Module,
    answer: Callable[[torch.nn.Module, Mapping[str, Any]], tuple[Tensor, ...]],
) -> Iterator[None]:
    """Within the context the model's forward returns what `answer` makes of its arguments."""
    signature = inspect.signature(type(model).forward)

    def forward(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(model, *args, **kwargs).arguments
        return as_output(bound, answer(model, {name: bound[name] for name in list(bound)[1:]}))

    with replaced(model, "forward", forward):
        yield


@contextmanager
def _counted_steps(scheduler: Any, next_step: Callable[[], None]) -> Iterator[None]:
    step = scheduler.step

    def counted(*args: Any, **kwargs: Any) -> Any:
        result = step(*args, **kwargs)
        next_step()
        return result

    with replaced(scheduler, "step", counted):
        yield


@contextmanager
def quiet(pipe: Any) -> Iterator[None]:
    """Without the pipeline's own progress bar: the calibration has one."""
    before = dict(getattr(pipe, "_progress_bar_config", {}))
    pipe.set_progress_bar_config(**{**before, "disable": True})
    try:
        yield
    finally:
        pipe.set_progress_bar_config(**before)


def _described(value: Any) -> Any:
    """JSON-ready: large things by their digest."""
    if isinstance(value, Mapping):
        return {str(key): _described(item) for key, item in sorted(value.items())}
    if isinstance(value, (list, tuple)):
        return [_described(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Tensor):
        content = value.detach().float().cpu().contiguous().numpy().tobytes()
        return f"tensor {list(value.shape)} {hashlib.sha256(content).hexdigest()}"
    if hasattr(value, "tobytes"):
        return f"{type(value).__name__} {hashlib.sha256(value.tobytes()).hexdigest()}"
    return repr(value)[:200]
