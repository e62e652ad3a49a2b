"""A model as the caller has it (a directory, a module or a pipeline), opened as a LoadedModel."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import torch

from ..errors import ArgumentError, ModelError
from ..families.registry import family_for
from ..plan.document import model_identity
from .apply import config_of
from .experts import ExpertRole, transformers_of
from .load import LoadedModel, load_model

ModelSource: TypeAlias = "str | PathLike[str] | torch.nn.Module | LoadedModel | Any"
"""A transformer directory or a pipeline directory, a diffusers transformer, a diffusers pipeline,
or what `load_model` returned."""

_REMEDY = "pass a directory, a diffusers transformer or a diffusers pipeline"


def open_model(
    source: ModelSource, dtype: torch.dtype | None = None, **loading: Any
) -> LoadedModel:
    """Open a model of any of the kinds that `ModelSource` lists.

    Args:
        source: the model. A live module or pipeline is used as it is, and put in eval mode.
        dtype: the floating-point type to load a directory in; None is float32. A live model has
            its own, and None or the same type is accepted.
        loading: of a directory, `variant`, `lora` and `weights_in_files` as of `load_model`.

    Raises:
        ModelError: the model is of an unknown family, or of several transformers that only a
            directory can describe.
        ArgumentError: `source` is none of these, or a live model is of another type than `dtype`.
    """
    if isinstance(source, (str, PathLike)):
        return load_model(source, dtype or torch.float32, **loading)
    if loading.get("lora"):
        raise ArgumentError(
            "lora",
            expected="a model's directory, whose weights it changes while they are read",
            actual=f"a live {type(source).__name__}",
            remedy="fuse it in diffusers first: fuse_lora(), then unload_lora_weights()",
        )
    loaded = source if isinstance(source, LoadedModel) else _of_module(_transformer_of(source))
    if dtype not in (None, loaded.dtype):
        raise ArgumentError(
            "dtype",
            expected=f"None or {loaded.dtype}, the type of the model that was passed",
            actual=str(dtype),
            remedy="convert the model with .to(dtype) first",
        )
    return loaded


def _transformer_of(source: Any) -> torch.nn.Module:
    models = transformers_of(source)
    if ExpertRole.LOW_NOISE.value in models:
        raise ModelError(
            type(source).__name__,
            expected="a pipeline of one transformer",
            actual="transformer and transformer_2, each serving a part of the schedule",
            remedy="pass the directory of one of them, PIPELINE/transformer or transformer_2",
        )
    if not models:
        actual = f"a {type(source).__name__} without a transformer"
        raise ArgumentError("model", expected="a model", actual=actual, remedy=_REMEDY)
    return models[ExpertRole.HIGH_NOISE.value]


def _of_module(module: torch.nn.Module) -> LoadedModel:
    class_name = type(module).__name__
    family = family_for(class_name)
    config = config_of(module)
    family.check_config(config)
    dtype: torch.dtype = module.dtype  # type: ignore[assignment]
    place = Path(str(getattr(module, "name_or_path", "") or class_name))
    return LoadedModel(
        module.eval(), family, config, place, model_identity(class_name, config), dtype
    )
