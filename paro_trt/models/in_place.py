"""A plan applied to a diffusers transformer in place: its own pipeline runs PAROAttention."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..errors import ModelError
from ..families.base import TIMESTEPS, AttentionSite, ModelFamily, Shape
from ..families.registry import family_for
from ..op.api import Implementation
from ..plan import ModelIdentity, ParoPlan
from ..plan.bins import mask_bins
from ..plan.document import model_identity
from .apply import ParoTransformer, config_of
from .experts import BOUNDARY_KEY, Expert, ExpertRole, is_of_model
from .intercept import intercept_attention, require_all_met

_PREVIOUS: WeakKeyDictionary[torch.nn.Module, tuple[bool, Any]] = WeakKeyDictionary()
"""Modules with a plan -> whether they had a `forward` of their own before, and which."""


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
        ModelError: the plan is of another model, the model has a plan already, or the family
            cannot be planned in place. A later call raises it for another resolution.
        ArgumentError: `impl` is no implementation.
    """
    model, identity = _planned_transformer(model_or_pipeline, plan)
    if model in _PREVIOUS:
        raise ModelError(
            type(model).__name__,
            expected="a model without a plan",
            actual="a model with one",
            remedy="call remove(model) first",
        )
    family = family_for(type(model).__name__)
    if family.timestep_scale is None:
        raise ModelError(
            type(model).__name__,
            expected="a family that takes a plan in place",
            actual=f"the family {family.name}",
            remedy="use ParoTransformer(model, family, plan)",
        )
    planned = ParoTransformer(model, family, plan, impl, identity)
    # The planned layers must not own the model: it would own itself through its new forward.
    del planned.model
    own = vars(model)
    _PREVIOUS[model] = "forward" in own, own.get("forward")
    model.forward = _planned_forward(model, planned, model.forward)


def remove(model_or_pipeline: Any) -> None:
    """Undo `apply`: the transformer, or each of a pipeline's, computes as before.

    Raises:
        ModelError: there is no plan to remove.
    """
    removed = [model for model in _transformers(model_or_pipeline).values() if model in _PREVIOUS]
    if not removed:
        raise ModelError(
            type(model_or_pipeline).__name__,
            expected="a model with a plan",
            actual="a model without one",
            remedy="remove undoes an earlier apply",
        )
    for model in removed:
        had_own, previous = _PREVIOUS.pop(model)
        if had_own:
            model.forward = previous
        else:
            del model.forward


def _planned_forward(
    model: torch.nn.Module, planned: ParoTransformer, dense: Callable[..., Any]
) -> Callable[..., Any]:
    signature = inspect.signature(dense)
    family, geometry, padded = planned.family, planned.geometry, planned.geometry.text.padded
    layers = {site.name: layer for site, layer in zip(planned.sites, planned.layers, strict=True)}

    def forward(*args: Any, **kwargs: Any) -> Any:
        call = signature.bind(*args, **kwargs).arguments
        _check_resolution(planned, call)
        latents = call["hidden_states"]
        mask_bin = _mask_bin(family, planned.plan, call["timestep"], len(latents))
        planned.to(latents.device)
        length = torch.full_like(mask_bin, geometry.tokens)
        if padded:
            length = family.text_length(call).to("cpu", torch.int32) + geometry.grid.tokens
        mask_bin, length = mask_bin.to(latents.device), length.to(latents.device)
        met: set[str] = set()

        def attend(
            site: AttentionSite, query: Tensor, key: Tensor, value: Tensor, scale: float
        ) -> Tensor:
            met.add(site.name)
            output: Tensor = layers[site.name](
                query, key, value, planned.token_order, mask_bin, length, scale
            )
            return output

        with (
            family.adapted(model, geometry),
            intercept_attention(model, planned.sites, attend, length if padded else None),
        ):
            output = dense(*args, **kwargs)
        require_all_met(planned.sites, met)
        return output

    return forward


def _mask_bin(family: ModelFamily, plan: ParoPlan, timestep: Any, batch: int) -> Tensor:
    """int32 [B] from the model's own timestep: a number, [B], or [B, tokens] (Wan TI2V)."""
    own = torch.as_tensor(timestep).detach().to("cpu", torch.float64)
    # A frame that is given is at timestep 0; the others have the step's.
    sample = own.amax(dim=1) if own.ndim == 2 else own.reshape(-1)
    ours = sample * (TIMESTEPS / (family.timestep_scale or TIMESTEPS))
    return torch.from_numpy(mask_bins(ours.expand(batch).numpy(), plan.bin_boundaries))


def _check_resolution(planned: ParoTransformer, call: Mapping[str, Any]) -> None:
    """Raise ModelError where the call is of another resolution than the plan.

    Packed latents have only a token count: there, the position ids that the pipeline passes tell
    a portrait from a landscape.
    """
    actual = tuple(call["hidden_states"].shape[1:])
    expected = _call_shape(planned)
    fits = actual == expected
    for name, constant in planned.constants.named().items():
        given = call.get(name)
        if fits and isinstance(given, Tensor):
            wanted = constant.to(given)
            fits = given.shape[-wanted.ndim :] == wanted.shape and bool((given == wanted).all())
    if not fits:
        raise ModelError(
            "latents",
            expected=f"[B, {', '.join(map(str, expected))}] of the plan's {planned.plan.grid}",
            actual=str(list(call["hidden_states"].shape)),
            remedy="a plan serves one resolution; calibrate another, or call remove(model)",
        )


def _call_shape(planned: ParoTransformer) -> Shape:
    """Shape of the model's hidden_states, which hold an image's channels after the latents'."""
    family, config, geometry = planned.family, planned.config, planned.geometry
    latents = family.latent_shape(config, geometry)
    for entry in family.conditioning_spec(config, geometry):
        image = entry.shape[1:]
        if entry.name == "image_latents" and entry.default is None and len(image) == len(latents):
            sums = [own + int(appended) for own, appended in zip(latents, image, strict=True)]
            if config["in_channels"] in sums:
                channel = sums.index(config["in_channels"])
                return (*latents[:channel], sums[channel], *latents[channel + 1 :])
    return latents


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
    if isinstance(given, torch.nn.Module):
        return {ExpertRole.HIGH_NOISE.value: given}
    found = {role.value: getattr(given, role.value, None) for role in ExpertRole}
    models = {role: model for role, model in found.items() if isinstance(model, torch.nn.Module)}
    if not models:
        raise ModelError(
            type(given).__name__,
            expected="a diffusers transformer, or a pipeline with one",
            actual="neither",
        )
    return models
