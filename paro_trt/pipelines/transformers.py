"""The transformers of a pipeline, and which of them this package can work with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from ..errors import ModelError
from ..families.base import ModelFamily
from ..families.registry import check_served, family_for
from ..models import experts
from ..models.apply import config_of
from ..models.experts import ExpertRole

_QUANTIZERS = {
    "bitsandbytes": "bitsandbytes",
    "torchao": "torchao",
    "optimum.quanto": "quanto",
    "diffusers.quantizers.gguf": "GGUF",
    "nunchaku": "nunchaku",
}
"""Beginning of the Python module that a quantized layer's or weight's class is from -> its name."""

_REMEDY = "load the transformer in bfloat16 or float16, without quantization_config"


def transformers_of(pipe: Any) -> dict[ExpertRole, torch.nn.Module]:
    """The transformers of a pipeline by role, the noisier part's first.

    What `torch.compile` wrapped is unwrapped: the module itself is returned.

    Raises:
        ModelError: there is none.
    """
    modules = {
        ExpertRole(name): uncompiled(module)
        for name, module in experts.transformers_of(pipe).items()
    }
    if not modules:
        raise ModelError(
            type(pipe).__name__,
            expected="a diffusers pipeline with a transformer",
            actual="one with a U-Net" if hasattr(pipe, "unet") else "one without",
            remedy="pass a pipeline of a diffusion transformer, such as WanPipeline",
        )
    return modules


def uncompiled(module: torch.nn.Module) -> torch.nn.Module:
    """The module itself, where `torch.compile` returned a wrapper around it."""
    inner = getattr(module, "_orig_mod", None)
    return inner if isinstance(inner, torch.nn.Module) else module


def check_transformers(pipe: Any) -> dict[ExpertRole, ModelFamily]:
    """The family of each of a pipeline's transformers.

    Raises:
        ModelError: a transformer is of no family or of a variant that its family does not have, it
            is quantized, or the pipeline is of a class that the family does not serve.
    """
    families = {}
    for role, module in transformers_of(pipe).items():
        check_not_quantized(module, f"{type(pipe).__name__}.{role.value}")
        family = family_for(type(module).__name__)
        check_served(family, type(pipe).__name__)
        family.check_config(config_of(module))
        families[role] = family
    return families


def check_not_quantized(module: torch.nn.Module, name: str) -> None:
    """Raise ModelError where weights are quantized or kept in 8 bits between calls."""
    kind = next(_quantizers(module), None)
    if kind is not None:
        raise ModelError(
            name, expected="floating-point weights", actual=f"weights quantized by {kind}",
            remedy=_REMEDY,
        )  # fmt: skip


def _quantizers(module: torch.nn.Module) -> Iterator[str]:
    declared = getattr(module, "quantization_method", None)
    if declared is not None:
        yield str(getattr(declared, "value", declared))
    parts = (*module.modules(), *module.parameters(), *(p.data for p in module.parameters()))
    for part in parts:
        home = type(part).__module__
        yield from (name for start, name in _QUANTIZERS.items() if home.startswith(start))
    for parameter in module.parameters():
        if parameter.dtype.itemsize == 1:
            yield f"layerwise casting to {str(parameter.dtype).removeprefix('torch.')}"
