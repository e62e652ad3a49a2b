"""A plan applied to a diffusers transformer in place: its own pipeline runs PAROAttention."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from ..errors import ModelError
from ..families.base import TIMESTEPS, AttentionSite, Geometry, ModelCall, ModelFamily
from ..families.registry import family_for
from ..families.shared.adapt import replaced
from ..op.api import Implementation
from ..plan import ModelIdentity, ParoPlan
from ..plan.document import model_identity
from .apply import GeometryConstants, ParoTransformer, config_of
from .calls import bins_of, fitted_call, named_arguments, returned
from .experts import BOUNDARY_KEY, Expert, ExpertRole, is_of_model, transformers_of
from .intercept import intercept_attention

PaddedHandler: TypeAlias = Callable[
    [Tensor | None, AttentionSite, Tensor, Tensor, Tensor, float], Tensor
]
"""An `AttentionHandler` that is told first, int64 [B], how many tokens of each sample exist; None
where text is never padded."""

_APPLIED = "_paro_applied"
"""Attribute of a transformer with a plan: an `_Applied`."""


_WHY_EAGER = "a plan reads the values of a call before the model computes"


class _Read(NamedTuple):
    arguments: Mapping[str, Any]
    call: ModelCall


@dataclass(frozen=True)
class _Applied:
    """What `remove` undoes.

    Args:
        planned: the forward that runs the plan.
        previous: the one that it took the place of.
    """

    planned: Callable[..., Any]
    previous: Callable[..., Any]


def apply(
    model_or_pipeline: Any, plan: ParoPlan, *, impl: str | Implementation = Implementation.REFERENCE
) -> None:
    """Let a transformer's own forward run the planned attention, until `remove`.

    The bin of each sample follows from the call's `timestep`. For a pipeline of two experts, call
    it once with the plan of each.

    Args:
        model_or_pipeline: a diffusers transformer, or a pipeline that holds it as `transformer`
            (or `transformer_2`, where the plan is of that expert).
        plan: made for this transformer; its calls must be of the plan's resolution.
        impl: who computes the op ("reference", "cpu", "cuda" or "emulated").

    Raises:
        ModelError: the plan is of another model, or the model has a plan already. A later call
            raises it for another resolution.
        ArgumentError: `impl` is no implementation.
    """
    model, identity = _planned_transformer(model_or_pipeline, plan)
    if _APPLIED in vars(model):
        raise ModelError(
            type(model).__name__,
            expected="a model without a plan",
            actual="a model with one",
            remedy="call remove(model) first",
        )
    planned = ParoTransformer(model, family_for(type(model).__name__), plan, impl, identity)
    owner, name = _innermost(model)
    previous = getattr(owner, name)
    planned.model = _OwnForward(model, previous)
    forward = _planned_forward(planned, type(model).forward)
    setattr(owner, name, forward)
    vars(model)[_APPLIED] = _Applied(forward, previous)


def remove(model_or_pipeline: Any) -> None:
    """Undo `apply`: the transformer, or each of a pipeline's, computes as before.

    Raises:
        ModelError: there is no plan to remove.
    """
    removed = [
        model for model in _transformers(model_or_pipeline).values() if _APPLIED in vars(model)
    ]
    if not removed:
        raise ModelError(
            type(model_or_pipeline).__name__,
            expected="a model with a plan",
            actual="a model without one",
            remedy="remove undoes an earlier apply",
        )
    for model in removed:
        applied = vars(model).pop(_APPLIED)
        for owner, name in _places(model):
            if getattr(owner, name) is applied.planned:
                if (owner, name) == (model, "forward") and _is_class_s_own(model, applied.previous):
                    vars(model).pop(name)
                else:
                    setattr(owner, name, applied.previous)


@contextmanager
def handled_attention(
    model: torch.nn.Module, family: ModelFamily, geometry: Geometry, handler: PaddedHandler
) -> Iterator[None]:
    """Within the context the model's own calls compute the sites' attention with `handler`.

    The calls may come from anywhere, also through the hooks of offloading.

    Args:
        model: a diffusers transformer without a plan.
        family: its family.
        geometry: that every call is fitted to.
        handler: computes the attention of a site.

    Raises:
        ModelError: the model has a plan, or a call is of another geometry.
    """
    if _APPLIED in vars(model):
        raise ModelError(
            type(model).__name__, expected="the dense model", actual="one with a plan",
            remedy="call remove(model) first",
        )  # fmt: skip
    owner, name = _innermost(model)
    previous = getattr(owner, name)
    within, config = _OwnForward(model, previous), config_of(model)
    sites = family.sites(config)
    constants = GeometryConstants(family, config, geometry)

    def forward(*args: Any, **kwargs: Any) -> Any:
        arguments = named_arguments(type(model).forward, args, kwargs)
        call = fitted_call(family, config, family.read_call(config, arguments), geometry)
        vars(within)["placed"] = call.latents[:0]
        padding = None
        if geometry.text.padded:
            padding = family.text_length(call.inputs).long() + geometry.grid.tokens
        inputs = {**call.inputs, **constants.to(call.latents.device).named()}
        with (
            family.adapted(within, geometry),
            intercept_attention(within, sites, functools.partial(handler, padding), padding),
        ):
            outputs = family.forward(within, geometry, call.latents, call.timestep, inputs)
        outputs = family.call_output(config, arguments, outputs)
        return returned(type(model).__name__, outputs, arguments)

    with replaced(owner, name, forward):
        yield


def _places(model: torch.nn.Module) -> Iterator[tuple[object, str]]:
    """Where a forward of the module is kept: its own, and under the hooks of accelerate and of
    diffusers (offloading, layerwise casting, caches), which run before and after it."""
    yield model, "forward"
    if "_old_forward" in vars(model):
        yield model, "_old_forward"
    for hook in getattr(getattr(model, "_diffusers_hook", None), "_fn_refs", ()):
        yield hook, "forward" if hook.original_forward is None else "original_forward"


def _innermost(model: torch.nn.Module) -> tuple[object, str]:
    """The place of the class's own forward: hooks must have run before the plan's, because they
    bring the weights to the device."""
    for owner, name in _places(model):
        if _is_class_s_own(model, getattr(owner, name)):
            return owner, name
    return model, "forward"


def _is_class_s_own(model: torch.nn.Module, forward: Callable[..., Any]) -> bool:
    return getattr(forward, "__func__", None) is type(model).forward


class _OwnForward(torch.nn.Module):
    """A transformer whose calls go to the forward that it had before, past its hooks.

    Attributes and submodules are the transformer's; it is no submodule, so that nothing moves or
    saves it twice.
    """

    def __init__(self, model: torch.nn.Module, dense: Callable[..., Any]) -> None:
        super().__init__()
        vars(self).update(transformer=model, dense=dense, placed=torch.empty(0))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The transformer's own result."""
        return self.dense(*args, **kwargs)

    def parameters(self, recurse: bool = True) -> Iterator[torch.nn.Parameter]:  # noqa: ARG002
        """One empty tensor where the call computes: families ask the first parameter for the
        device, and an offloaded model's may be elsewhere."""
        yield self.placed

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["transformer"], name)


def _planned_forward(planned: ParoTransformer, own: Callable[..., Any]) -> Callable[..., Any]:
    """The plan behind the signature of the class's own forward."""
    family, config = planned.family, planned.config
    boundaries, model = planned.plan.bin_boundaries, planned.model

    def read(stack: ExitStack, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> _Read:
        arguments = named_arguments(own, args, kwargs)
        call = fitted_call(family, config, family.read_call(config, arguments), planned.geometry)
        planned.to(call.latents.device)
        vars(model)["placed"] = call.latents[:0]
        mask_bin = bins_of(call, boundaries)
        key_length = planned.key_length(call.inputs, mask_bin)
        stack.enter_context(planned.in_its_place(mask_bin, key_length))
        return _Read(arguments, call)

    def answer(arguments: Mapping[str, Any], outputs: tuple[Tensor, ...]) -> Any:
        outputs = family.call_output(config, arguments, outputs)
        return returned(planned.plan.model.class_name, outputs, arguments)

    # A compiled transformer compiles its own forward. What goes before and after reads values, and
    # the contexts are entered and left outside of the graph.
    read = torch.compiler.disable(read, reason=_WHY_EAGER)
    answer = torch.compiler.disable(answer, reason=_WHY_EAGER)

    @functools.wraps(own)
    def forward(*args: Any, **kwargs: Any) -> Any:
        with ExitStack() as stack:
            arguments, call = read(stack, args, kwargs)
            outputs = planned.own_forward(call.latents, call.timestep, call.inputs)
        return answer(arguments, outputs)

    forward = torch.compiler.disable(forward, recursive=False, reason=_WHY_EAGER)
    # Whoever asks for the signature must not see `self`.
    forward.__signature__ = inspect.signature(own.__get__(model))  # type: ignore[attr-defined]
    return forward


def _planned_transformer(given: Any, plan: ParoPlan) -> tuple[torch.nn.Module, ModelIdentity]:
    """The transformer that the plan is for, and its identity; the only one if none is."""
    models = _transformers(given)
    ratio = getattr(getattr(given, "config", None), BOUNDARY_KEY, None)
    identities = {}
    for role, model in models.items():
        class_name, config = type(model).__name__, config_of(model)
        if len(models) == 2 and ratio is not None:
            expert = Expert(ExpertRole(role), float(ratio) * TIMESTEPS)
            identities[role] = expert.identity(class_name, config)
        else:
            identities[role] = model_identity(class_name, config)
    role = next(
        (r for r in models if is_of_model(plan.model, identities[r], config_of(models[r]))),
        next(iter(models)),
    )
    return models[role], identities[role]


def _transformers(given: Any) -> dict[str, torch.nn.Module]:
    models = transformers_of(given)
    if not models:
        raise ModelError(
            type(given).__name__,
            expected="a diffusers transformer, or a pipeline with one",
            actual="neither",
        )
    return models
