"""A call of a transformer's own forward, fitted to a plan or an exported file, and answered."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ModelError
from ..families.base import Config, Geometry, ModelCall, ModelFamily
from ..plan import mask_bins

_REMEDY = "a plan and its files serve one resolution; calibrate this one, or call remove(model)"


def named_arguments(
    forward: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments of a call by name, without those that were left out, as `read_call` wants.

    Args:
        forward: of the transformer's class, not of the module: hooks of an older diffusers hide
            the signature.
        args: by position.
        kwargs: by name.
    """
    arguments = inspect.signature(forward).bind(None, *args, **kwargs).arguments
    return dict(list(arguments.items())[1:])


def fitted_call(
    family: ModelFamily, config: Config, call: ModelCall, geometry: Geometry
) -> ModelCall:
    """The call with the tokens of a plan: padded text filled up, defaults filled in, types as in
    the family's spec.

    Args:
        family: the model's.
        config: the model's.
        call: as `family.read_call` made it.
        geometry: of the plan or the exported file.

    Raises:
        ModelError: the call is of another resolution, or its text is longer than the geometry's
            or, where text is not padded, of another length.
    """
    if call.geometry.grid != geometry.grid:
        raise ModelError(
            "latents",
            expected=f"latents of {geometry.grid}, the plan's",
            actual=f"latents of {call.geometry.grid}",
            remedy=_REMEDY,
        )
    own, text = call.geometry.text, geometry.text
    if own != text and not (text.padded and own.count < text.count):
        raise ModelError(
            "text tokens",
            expected=f"{'at most ' if text.padded else ''}{text.count}, the plan's",
            actual=str(own.count),
            remedy="give the pipeline the max_sequence_length that the plan was calibrated with",
        )
    inputs = {}
    for entry in family.conditioning_spec(config, geometry):
        tensor = call.inputs.get(entry.name)
        if tensor is None:
            shape = [len(call.latents), *(1 if isinstance(n, str) else n for n in entry.shape[1:])]
            tensor = call.latents.new_full(shape, entry.default or 0.0, dtype=entry.dtype)
        count = entry.shape[1] if len(entry.shape) > 1 else None
        if text.padded and isinstance(count, int) and tensor.shape[1] < count:
            missing = count - tensor.shape[1]
            tensor = F.pad(tensor, (*(0, 0) * (tensor.ndim - 2), 0, missing))
        inputs[entry.name] = tensor if entry.dtype is None else tensor.to(entry.dtype)
    return ModelCall(call.latents, call.timestep, inputs, geometry)


def bins_of(call: ModelCall, boundaries: Sequence[float]) -> Tensor:
    """int32 [B] on the latents' device: each sample's bin of a schedule, by its timestep."""
    bins = mask_bins(call.timestep.detach().cpu().numpy(), boundaries)
    return torch.from_numpy(bins).to(call.latents.device)


def returned(class_name: str, outputs: tuple[Tensor, ...], call: Mapping[str, Any]) -> Any:
    """What a diffusers transformer returns, a tuple or an object, as the call's `return_dict` says.

    Args:
        class_name: of the transformer.
        outputs: of its forward, in order.
        call: the arguments by name.
    """
    if not call.get("return_dict", True):
        return outputs
    if len(outputs) == 2:
        from diffusers.models.transformers.transformer_ltx2 import AudioVisualModelOutput

        return AudioVisualModelOutput(*outputs)
    if class_name == "Flux2Transformer2DModel":
        from diffusers.models.transformers import transformer_flux2

        kind = getattr(transformer_flux2, "Flux2Transformer2DModelOutput", None)
        if kind is not None:
            return kind(sample=outputs[0])
    from diffusers.models.modeling_outputs import Transformer2DModelOutput

    return Transformer2DModelOutput(sample=outputs[0])
