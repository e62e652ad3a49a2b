"""Prompts as files: text embeddings computed beforehand, so that no text encoder is needed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import ModelError
from .base import ModelFamily

PROMPT_EMBEDS = "prompt_embeds"
NEGATIVE_EMBEDS = "negative_prompt_embeds"
PROMPT_TEXTS = "prompts"
"""Metadata key: a JSON list of the texts."""


@dataclass(frozen=True)
class Prompts:
    """Prompts and their embeddings.

    Args:
        texts: P prompts, for people.
        embeds: float32 [P, L, C], L text tokens of C channels.
        negative: float32 [L, C], the embedding to guide away from; None without guidance.
    """

    texts: tuple[str, ...]
    embeds: Tensor
    negative: Tensor | None = None

    def __len__(self) -> int:
        return len(self.texts)


def load_prompts(path: str | PathLike[str]) -> Prompts:
    """Read a safetensors file of prompts.

    It holds `prompt_embeds` [P, L, C], optionally `negative_prompt_embeds` [L, C], and the metadata
    key "prompts", a JSON list of P texts.

    Raises:
        ModelError: the file is missing or damaged, or not as described.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            metadata = file.metadata() or {}
            known = [name for name in (PROMPT_EMBEDS, NEGATIVE_EMBEDS) if name in names]
            tensors = {name: file.get_tensor(name) for name in known}
    except (SafetensorError, OSError) as error:
        raise ModelError(
            str(path),
            expected="a safetensors file of prompt embeddings",
            actual=str(error).strip().splitlines()[0][:200],
        ) from error
    if PROMPT_EMBEDS not in tensors:
        raise ModelError(
            str(path), expected=f"a tensor {PROMPT_EMBEDS}", actual=f"tensors {sorted(names)[:8]}"
        )
    embeds = _embeddings(path, PROMPT_EMBEDS, tensors[PROMPT_EMBEDS], 3)
    texts = _texts(path, metadata.get(PROMPT_TEXTS), len(embeds))
    if NEGATIVE_EMBEDS not in tensors:
        return Prompts(texts, embeds)
    negative = _embeddings(path, NEGATIVE_EMBEDS, tensors[NEGATIVE_EMBEDS], 2)
    if negative.shape != embeds.shape[1:]:
        raise ModelError(
            f"{path}: {NEGATIVE_EMBEDS}",
            expected=f"shape {list(embeds.shape[1:])}, as each prompt",
            actual=f"shape {list(negative.shape)}",
        )
    return Prompts(texts, embeds, negative)


def text_conditioning(
    family: ModelFamily, config: Mapping[str, Any], embeds: Tensor
) -> dict[str, Tensor]:
    """The conditioning inputs of a model that takes nothing but the text embedding.

    Args:
        family: the model's family.
        config: the model's config.
        embeds: float32 [B, L, C].

    Raises:
        ModelError: the family takes more, or embeddings of another width.
    """
    specs = family.conditioning_spec(config)
    if len(specs) != 1:
        raise ModelError(
            f"conditioning of the {family.name} family",
            expected="the text embedding alone",
            actual=", ".join(spec.name for spec in specs),
        )
    (spec,) = specs
    if spec.shape[-1] != embeds.shape[-1]:
        raise ModelError(
            "prompt embeddings",
            expected=f"{spec.shape[-1]} channels, as the model takes",
            actual=str(embeds.shape[-1]),
            remedy="embed the prompts with the model's own text encoder",
        )
    return {spec.name: embeds}


def _embeddings(path: Path, name: str, tensor: Tensor, dimensions: int) -> Tensor:
    if tensor.ndim != dimensions or not tensor.dtype.is_floating_point or 0 in tensor.shape:
        raise ModelError(
            f"{path}: {name}",
            expected=f"a floating-point tensor of {dimensions} dimensions, none empty",
            actual=f"{tensor.dtype} {list(tensor.shape)}",
        )
    if not torch.isfinite(tensor).all():
        raise ModelError(f"{path}: {name}", expected="finite values", actual="NaN or infinity")
    return tensor.float()


def _texts(path: Path, text: str | None, count: int) -> tuple[str, ...]:
    try:
        value = json.loads(text) if text is not None else None
    except (ValueError, RecursionError):
        value = text
    if (
        not isinstance(value, list)
        or len(value) != count
        or not all(isinstance(item, str) for item in value)
    ):
        raise ModelError(
            f'{path}: metadata "{PROMPT_TEXTS}"',
            expected=f"a JSON list of {count} texts, one for each row of {PROMPT_EMBEDS}",
            actual=repr(value)[:80],
        )
    return tuple(value)
