"""Prompts as files: conditioning computed beforehand, so that no text encoder is needed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..errors import ModelError
from ..families.base import Shape
from ..files import atomic_write

PROMPT_TEXTS = "prompts"
"""Metadata key: a JSON list of the texts."""

NEGATIVE = "negative."
"""Begins the names of the negative prompt's tensors."""

_PIPELINE_NEGATIVE = "negative_"
"""The same in the names that diffusers' pipelines use."""

_PIPELINE_NAMES = {
    "prompt_embeds": "encoder_hidden_states",
    "prompt_embeds_2": "encoder_hidden_states_2",
    "pooled_prompt_embeds": "pooled_projections",
    "prompt_attention_mask": "encoder_attention_mask",
}
"""What `encode_prompt` of diffusers' pipelines calls inputs of every family that has them."""

_NO_CONDITIONING = ("text_ids",)
"""Returned by `encode_prompt`, and a constant of the geometry."""

_UNSAFE = (".pt", ".pth", ".bin", ".pkl", ".ckpt", ".npz", ".npy")


@dataclass(frozen=True)
class Prompts:
    """Prompts and what a model takes of them.

    Args:
        texts: P prompts, for people.
        tensors: [P, ...] each, by the name of the conditioning input; floating-point ones float32.
        negative: the same of one negative prompt, without P; what it lacks is each prompt's own,
            but no mask of a text of another length. None without guidance.
    """

    texts: tuple[str, ...]
    tensors: Mapping[str, Tensor]
    negative: Mapping[str, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def shapes(self) -> dict[str, Shape]:
        """Shape of each tensor of one prompt, or of the negative one where that is longer."""
        negative = self.negative or {}
        own = {name: tuple(tensor.shape[1:]) for name, tensor in self.tensors.items()}
        return {name: max(shape, _shape(negative.get(name))) for name, shape in own.items()}

    def named(self, names: Mapping[str, str]) -> Prompts:
        """With a family's own names of the inputs in place of a pipeline's.

        Args:
            names: `ModelFamily.pipeline_names`.
        """
        tensors = {names.get(name, name): tensor for name, tensor in self.tensors.items()}
        if self.negative is None:
            return Prompts(self.texts, tensors)
        negative = {names.get(name, name): tensor for name, tensor in self.negative.items()}
        return Prompts(self.texts, tensors, negative)

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
        own = self.rows(indices)
        resized = {
            own[name].shape[1]
            for name, tensor in repeated.items()
            if tensor.shape[1:] != own[name].shape[1:]
        }
        inherited = {
            name: tensor
            for name, tensor in own.items()
            if not (_is_mask(name) and tensor.shape[1] in resized)
        }
        return inherited | repeated

    def only(self, indices: Sequence[int]) -> Prompts:
        """Some of the prompts."""
        texts = tuple(self.texts[index] for index in indices)
        return Prompts(texts, self.rows(indices), self.negative)


def load_prompts(path: str | PathLike[str]) -> Prompts:
    """Read a safetensors file of prompts.

    It holds one tensor [P, ...] for each conditioning input of the model, under the input's name;
    `negative.<name>` [...] or [1, ...] for those in which the negative prompt differs; and the
    metadata key "prompts", a JSON list of P texts, which may be missing. The names that diffusers'
    pipelines use, such as `prompt_embeds` and `negative_prompt_embeds`, are read as well.
    docs/adding-a-model.md describes the format.

    Raises:
        ModelError: the file is missing or damaged, or not as described.
    """
    path = Path(path)
    if path.suffix in _UNSAFE:
        raise ModelError(
            str(path),
            expected="a safetensors file of prompt embeddings",
            actual=f"a {path.suffix} file",
            remedy="write it with safetensors.torch.save_file(tensors, 'prompts.safetensors')",
        )
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
    if PROMPT_TEXTS not in metadata:
        return prompts
    return replace(prompts, texts=_texts(path, metadata[PROMPT_TEXTS], len(prompts)))


def prompts_of(tensors: Mapping[str, Tensor | None], source: str = "prompts") -> Prompts:
    """Numbered prompts from tensors that are named as in a prompt file, see `load_prompts`.

    Args:
        tensors: [P, ...] by name; `negative.<name>` [...] for the negative prompt. None counts as
            missing: `encode_prompt` of some pipelines returns it for a mask without padding.
        source: where they come from, for messages.

    Raises:
        ModelError: the tensors are not as described.
    """
    read: dict[str, Tensor] = {}
    for stored in sorted(tensors):
        tensor, name = tensors[stored], _input_name(stored)
        if tensor is None or name.removeprefix(NEGATIVE) in _NO_CONDITIONING:
            continue
        if name in read:
            raise ModelError(f"{source}: {stored}", expected=f"one tensor for {name}", actual="two")
        read[name] = _checked(source, stored, tensor)
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


def save_prompts(prompts: Prompts, path: str | PathLike[str]) -> None:
    """Write a file that `load_prompts` reads, whole or not at all.

    Raises:
        ParoError: it cannot be written.
    """
    negative = {f"{NEGATIVE}{name}": tensor for name, tensor in (prompts.negative or {}).items()}
    tensors = {
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in {**prompts.tensors, **negative}.items()
    }
    with atomic_write(Path(path)) as file:
        file.write(save(tensors, {PROMPT_TEXTS: json.dumps(list(prompts.texts))}))


def _input_name(stored: str) -> str:
    """The name of a tensor as this package has it."""
    prefix = next((p for p in (NEGATIVE, _PIPELINE_NEGATIVE) if stored.startswith(p)), "")
    name = stored.removeprefix(prefix)
    return (NEGATIVE if prefix else "") + _PIPELINE_NAMES.get(name, name)


def _is_mask(name: str) -> bool:
    return "mask" in name


def _shape(tensor: Tensor | None) -> Shape:
    return () if tensor is None else tuple(tensor.shape)


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
    """The negative prompt's tensors without a batch: text may be of another length."""
    negative = {}
    for name, tensor in read.items():
        if not name.startswith(NEGATIVE):
            continue
        own = name.removeprefix(NEGATIVE)
        rows = tensor if own in positive and tensor.ndim == positive[own].ndim else tensor[None]
        single = rows[0]
        if own not in positive or not _of_one_kind(own, single, positive[own][0]):
            wanted = f"shape {list(positive[own].shape[1:])}" if own in positive else "no tensor"
            raise ModelError(
                f"{source}: {name}",
                expected=f"{wanted}, as each prompt has; of text, the tokens may differ in number",
                actual=f"shape {list(tensor.shape)}",
            )
        if not bool((rows == single).all()):
            raise ModelError(
                f"{source}: {name}",
                expected="one negative prompt for all prompts",
                actual=f"{len(rows)} different ones",
                remedy="write a prompt file for each of them",
            )
        negative[own] = single
    return negative


def _of_one_kind(name: str, negative: Tensor, positive: Tensor) -> bool:
    """Whether two tensors without a batch differ at most in a text's number of tokens."""
    if negative.shape == positive.shape:
        return True
    text = _is_mask(name) or positive.ndim == 2
    return text and negative.ndim == positive.ndim and negative.shape[1:] == positive.shape[1:]


def _texts(path: Path, text: str, count: int) -> tuple[str, ...]:
    try:
        value = json.loads(text)
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
