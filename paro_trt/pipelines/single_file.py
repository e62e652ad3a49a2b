"""A pipeline from one checkpoint file in the layout of a model's authors, as diffusers reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..errors import ModelError
from ..families.registry import family_for
from ..models.contents import read_json_object
from ..models.experts import PIPELINE_INDEX, ExpertRole
from .dtypes import dtype_argument
from .source import find_pipeline

ROLE = ExpertRole.HIGH_NOISE.value


def load_single_file(path: Path, dtype: torch.dtype) -> Any:
    """The pipeline that a checkpoint belongs to, its transformer from the file.

    diffusers tells from the names of the tensors which published pipeline it is. That pipeline's
    configuration, and the models that the file does not hold, come from the local cache.

    Args:
        path: a .safetensors file.
        dtype: of the weights.

    Raises:
        ModelError: diffusers does not know the file, or the pipeline is not in the cache.
    """
    import diffusers

    options: dict[str, Any] = {"local_files_only": True, **dtype_argument(dtype)}
    directory = _configuration(path)
    index = read_json_object(directory / PIPELINE_INDEX)
    entry = index.get(ROLE)
    if not isinstance(entry, list) or not isinstance(entry[-1], str):
        raise ModelError(
            str(path), expected="a checkpoint of a pipeline with a transformer",
            actual=f"one that diffusers takes for {index.get('_class_name')}",
        )  # fmt: skip
    family_for(entry[-1])
    pipeline_class = getattr(diffusers, str(index["_class_name"]))
    if hasattr(pipeline_class, "from_single_file"):
        return pipeline_class.from_single_file(str(path), config=str(directory), **options)
    transformer = getattr(diffusers, entry[-1]).from_single_file(
        str(path), config=str(directory), subfolder=ROLE, **options
    )
    return pipeline_class.from_pretrained(
        str(directory), transformer=transformer, use_safetensors=True, **options
    )


def _configuration(path: Path) -> Path:
    """The cached pipeline whose configuration diffusers would use for a checkpoint."""
    from diffusers.loaders.single_file_utils import (
        fetch_diffusers_config,
        load_single_file_checkpoint,
    )

    hub_id = fetch_diffusers_config(load_single_file_checkpoint(str(path)))[
        "pretrained_model_name_or_path"
    ]
    try:
        return find_pipeline(hub_id)
    except ModelError as error:
        raise ModelError(
            str(path),
            expected="a checkpoint whose pipeline is in the local cache",
            actual=f"one that diffusers takes for {hub_id}, which is not there",
            remedy=f"hf download {hub_id}, or pass a pipeline directory",
        ) from error
