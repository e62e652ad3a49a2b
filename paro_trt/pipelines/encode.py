"""Sentences as a prompt file: what a pipeline gives its transformer, without the transformer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import msgspec
import torch
from torch import Tensor

from ..calibration.pipeline_source import quiet
from ..calibration.source import AllRecordedError
from ..errors import ArgumentError, ModelError
from ..families.base import Geometry, ModelCall
from ..families.registry import family_for
from ..families.shared.adapt import replaced
from ..models.apply import config_of
from ..models.calls import fitted_call, named_arguments, returned
from ..models.experts import ExpertRole
from ..models.pipeline_errors import pipeline_call
from ..models.prompts import Prompts
from ..models.substitute import SubstituteTransformer
from .call_sizes import suited_size
from .open import AUTO, PipelineSource, is_live, load_pipeline, open_pipeline
from .placement import Offload, execution_device, parse_device, parse_offload, place_pipeline
from .request import Request, call_arguments
from .transformers import transformers_of


def encode_prompts(
    source: PipelineSource,
    texts: Sequence[str],
    request: Request,
    *,
    device: str = AUTO,
    dtype: str | torch.dtype = AUTO,
    offload: str | Offload = Offload.NONE,
    text_tokens: int | None = None,
) -> Prompts:
    """What the pipeline gives its transformer for sentences: `save_prompts` makes a file of it.

    The pipeline runs up to its first step, so that text encoders, image encoders and padding are
    its own. The transformer's weights are not read. A negative prompt is there where the pipeline
    guides by one.

    Args:
        source: as of `open_pipeline`.
        texts: the sentences.
        request: what every run has in common; its prompt is not used.
        device: as of `open_pipeline`.
        dtype: as of `open_pipeline`, of the encoders.
        offload: as of `open_pipeline`.
        text_tokens: of padded text in the attention; None: those of the longest prompt.

    Returns:
        Prompts whose tensors are on the CPU, in the pipeline's type.

    Raises:
        ModelError: the pipeline cannot be opened or does not call its transformer.
        ArgumentError: an argument does not fit the pipeline or its family.
    """
    with _without_transformers(source, request, device, dtype, offload) as (pipe, seen, arguments):
        runs = [_calls(pipe, text, request.seed, arguments, seen) for text in texts]
    return _prompts(texts, runs, seen.substitute, text_tokens)


class _Seen:
    """The calls of a pipeline's first step."""

    def __init__(self) -> None:
        self.calls: list[ModelCall] = []
        self.substitute: SubstituteTransformer


class _Recording(SubstituteTransformer):
    """Reads a call and answers with zeros."""

    def __init__(self, seen: _Seen, *of: Any) -> None:
        super().__init__(*of)
        vars(self)["seen"] = seen
        seen.substitute = self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Zeros, in the shape of the transformer's own result."""
        family = family_for(self.class_name)
        own = named_arguments(self.model_class.forward, args, kwargs)
        call = family.read_call(self.config, own)
        self.seen.calls.append(call)
        zeros = tuple(torch.zeros_like(call.latents) for _ in family.output_names)
        return returned(self.class_name, family.call_output(self.config, own, zeros), own)


@contextmanager
def _without_transformers(
    source: PipelineSource,
    request: Request,
    device: str,
    dtype: str | torch.dtype,
    offload: str | Offload,
) -> Iterator[tuple[Any, _Seen, dict[str, Any]]]:
    """The pipeline with recording substitutes in the place of its transformers, and the arguments
    of its call but the prompt."""
    placed = parse_device(device), parse_offload(offload)
    if is_live(source):
        pipe: Any = open_pipeline(source, device=device, dtype=dtype, offload=offload)
        place = execution_device(pipe)
    else:
        pipe, place = load_pipeline(source, dtype, shells=tuple(ExpertRole)), placed[0]
    # As a calibration rounds the size, on which the latents of an image depend.
    arguments, _ = suited_size(pipe, call_arguments(pipe, request))
    del arguments["prompt"]
    seen = _Seen()
    with ExitStack() as stack:
        for role, module in transformers_of(pipe).items():
            kind: Any = module.dtype
            made = _Recording(seen, type(module).__name__, config_of(module), kind, place)
            stack.enter_context(replaced(pipe, role.value, made))
        if not is_live(source):
            place_pipeline(pipe, *placed)
        yield pipe, seen, arguments


def _calls(
    pipe: Any, text: str, seed: int, arguments: Mapping[str, Any], seen: _Seen
) -> list[ModelCall]:
    """The transformer's calls in the first step of a prompt's run."""
    seen.calls = []

    def stop(*_args: Any, **_kwargs: Any) -> None:
        raise AllRecordedError

    with ExitStack() as stack:
        stack.enter_context(suppress(AllRecordedError))
        stack.enter_context(replaced(pipe.scheduler, "step", stop))
        stack.enter_context(quiet(pipe))
        stack.callback(pipe.maybe_free_model_hooks)
        stack.enter_context(pipeline_call(pipe))
        generator = torch.Generator("cpu").manual_seed(seed)
        pipe(prompt=text, generator=generator, **arguments)
    if not seen.calls:
        raise ModelError(
            f"a run of {type(pipe).__name__}", expected="a call of its transformer", actual="none"
        )
    return seen.calls


def _prompts(
    texts: Sequence[str],
    runs: Sequence[Sequence[ModelCall]],
    substitute: SubstituteTransformer,
    text_tokens: int | None,
) -> Prompts:
    family = family_for(substitute.class_name)
    geometry = _common_geometry([call for calls in runs for call in calls], text_tokens)
    rows: list[dict[str, Tensor]] = []
    negatives: list[dict[str, Tensor]] = []
    for calls in runs:
        fitted = [fitted_call(family, substitute.config, call, geometry) for call in calls[:2]]
        # Of a batch of two the prompt is the second, of two calls the first.
        rows.append(_row(fitted[0], -1))
        if len(fitted) > 1 or len(fitted[0].latents) > 1:
            negatives.append(_row(fitted[-1], 0))
    tensors = {}
    for name in rows[0]:
        shapes = {tuple(row[name].shape) for row in rows}
        if len(shapes) > 1:
            raise ModelError(
                f"{name} of the prompts",
                expected="one shape for all: a prompt file has a tensor for each input",
                actual=" and ".join(str(list(shape)) for shape in sorted(shapes)),
                remedy="encode prompts of other lengths into files of their own",
            )
        tensors[name] = torch.stack([row[name] for row in rows])
    negative = {
        name: tensor
        for name, tensor in (negatives[0] if negatives else {}).items()
        if any(not torch.equal(tensor, row[name]) for row in rows)
    }
    return Prompts(tuple(texts), tensors, negative or None)


def _row(call: ModelCall, index: int) -> dict[str, Tensor]:
    return {name: tensor[index].detach().cpu() for name, tensor in call.inputs.items()}


def _common_geometry(calls: Sequence[ModelCall], text_tokens: int | None) -> Geometry:
    """Of the first call, with room for the padded text of all."""
    first = calls[0].geometry
    if not first.text.padded:
        return first
    longest = max(call.geometry.text.count for call in calls)
    if text_tokens is not None and text_tokens < longest:
        raise ArgumentError(
            "text_tokens (--text-tokens)",
            expected=f"at least {longest}, the tokens of the longest prompt",
            actual=str(text_tokens),
        )
    return Geometry(first.grid, msgspec.structs.replace(first.text, count=text_tokens or longest))
