"""Prompts as files: conditioning computed beforehand, so that no text encoder is needed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import ModelError
from ..families.base import Shape

PROMPT_TEXTS = "prompts"
"""Metadata key: a JSON list of the texts."""

NEGATIVE = "negative."
"""Begins the names of the negative prompt's tensors."""

ALIASES = {
    "prompt_embeds": "encoder_hidden_states",
    "negative_prompt_embeds": "negative.encoder_hidden_states",
}
"""Names that diffusers' pipelines give to what transformers call otherwise."""


@dataclass(frozen=True)
class Prompts:
    """Prompts and what a model takes of them.

    Args:
        texts: P prompts, for people.
        tensors: [P, ...] each, by the name of the conditioning input; floating-point ones float32.
        negative: the same of one negative prompt, without P; what it lacks is each prompt's own.
            None without guidance.
    """

    texts: tuple[str, ...]
    tensors: Mapping[str, Tensor]
    negative: Mapping[str, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def shapes(self) -> dict[str, Shape]:
        """Shape of each tensor of one prompt."""
        return {name: tuple(tensor.shape[1:]) for name, tensor in self.tensors.items()}

    def rows(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The tensors of some prompts, a batch."""
        return {name: tensor[list(indices)] for name, tensor in self.tensors.items()}

    def negative_rows(self, indices: Sequence[int]) -> dict[str, Tensor] | None:
        """The negative prompt in place of each of some prompts; None without one."""
        if self.negative is None:
            return None
        repeated = {
            name: tensor[None].expand(len(indices), *tensor.shape)
            for name, tensor in self.negative.items()
        }
        return self.rows(indices) | repeated

    def only(self, indices: Sequence[int]) -> Prompts:
        """Some of the prompts."""
        texts = tuple(self.texts[index] for index in indices)
        return Prompts(texts, self.rows(indices), self.negative)


def load_prompts(path: str | PathLike[str]) -> Prompts:
    """Read a safetensors file of prompts.

    It holds one tensor [P, ...] for each conditioning input of the model, under the input's name;
    `negative.<name>` [...] for those in which the negative prompt differs; and the metadata key
    "prompts", a JSON list of P texts. `prompt_embeds` and `negative_prompt_embeds` are read as
    `encoder_hidden_states` and `negative.encoder_hidden_states`. docs/adding-a-model.md describes
    the format.

    Raises:
        ModelError: the file is missing or damaged, or not as described.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelError(
            str(path),
            expected="a safetensors file of prompt embeddings",
            actual=str(error).strip().splitlines()[0][:200],
        ) from error
    prompts = prompts_of(stored, str(path))
    return replace(prompts, texts=_texts(path, metadata.get(PROMPT_TEXTS), len(prompts)))


def prompts_of(tensors: Mapping[str, Tensor], source: str = "prompts") -> Prompts:
    """Numbered prompts from tensors that are named as in a prompt file, see `load_prompts`.

    Args:
        tensors: [P, ...] by name; `negative.<name>` [...] for the negative prompt.
        source: where they come from, for messages.

    Raises:
        ModelError: the tensors are not as described.
    """
    read = {
        ALIASES.get(name, name): _checked(source, name, tensors[name]) for name in sorted(tensors)
    }
    positive = {name: tensor for name, tensor in read.items() if not name.startswith(NEGATIVE)}
    if not positive:
        raise ModelError(
            source,
            expected="a tensor for each conditioning input, such as encoder_hidden_states",
            actual=f"tensors {sorted(tensors)[:8]}",
        )
    counts = {name: len(tensor) for name, tensor in positive.items()}
    if len(set(counts.values())) != 1:
        raise ModelError(
            source, expected="one row a prompt in every tensor", actual=f"rows {counts}"
        )
    count = next(iter(counts.values()))
    texts = tuple(f"prompt {index}" for index in range(1, count + 1))
    return Prompts(texts, positive, _negative(source, read, positive) or None)


def _checked(source: str, name: str, tensor: Tensor) -> Tensor:
    if tensor.ndim == 0 or 0 in tensor.shape or tensor.dtype.is_complex:
        raise ModelError(
            f"{source}: {name}",
            expected="a real tensor, not empty",
            actual=f"{tensor.dtype} {list(tensor.shape)}",
        )
    if not tensor.dtype.is_floating_point:
        return tensor
    if not torch.isfinite(tensor).all():
        raise ModelError(f"{source}: {name}", expected="finite values", actual="NaN or infinity")
    return tensor.float()


def _negative(
    source: str, read: Mapping[str, Tensor], positive: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    negative = {
        name.removeprefix(NEGATIVE): tensor
        for name, tensor in read.items()
        if name.startswith(NEGATIVE)
    }
    for name, tensor in negative.items():
        if name not in positive or tensor.shape != positive[name].shape[1:]:
            wanted = f"shape {list(positive[name].shape[1:])}" if name in positive else "no tensor"
            raise ModelError(
                f"{source}: {NEGATIVE}{name}",
                expected=f"{wanted}, as each prompt has",
                actual=f"shape {list(tensor.shape)}",
            )
    return negative


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
            expected=f"a JSON list of {count} texts, one for each row of the tensors",
            actual=repr(value)[:80],
        )
    return tuple(value)
