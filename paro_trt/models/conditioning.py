"""A model's conditioning inputs: checked against its family's spec, cast, made up where asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ModelError
from ..families.base import ConditioningInput, Role, Shape

BATCH = "B"

_FREE_EXAMPLE = 16
"""Size that a free dimension takes in made-up inputs."""


def cast_inputs(
    spec: Sequence[ConditioningInput], tensors: Mapping[str, Tensor], dtype: torch.dtype
) -> dict[str, Tensor]:
    """The inputs in their spec's dtypes; `dtype` is the model's."""
    return {entry.name: tensors[entry.name].to(entry.dtype or dtype) for entry in spec}


def complete_inputs(
    spec: Sequence[ConditioningInput], tensors: Mapping[str, Tensor], batch: int
) -> dict[str, Tensor]:
    """Exactly the inputs of a spec: defaults filled in, every shape and mask checked.

    Where a mask is missing, every token exists. A text with a mask is padded to the spec's length.

    Args:
        spec: of a family.
        tensors: [batch, ...] each; others than the spec's are refused.
        batch: samples.

    Raises:
        ModelError: a tensor is missing, unknown, of another shape, a mask is not padding at its
            end, or a prompt has no token.
    """
    names = [entry.name for entry in spec]
    unknown = sorted(tensors.keys() - set(names))
    if unknown:
        raise ModelError(
            "prompts", expected=f"tensors {', '.join(names)}", actual=f"also {', '.join(unknown)}"
        )
    sizes = {BATCH: batch}
    tensors = _filled_up(spec, tensors)
    made = {entry.name: _complete(entry, tensors.get(entry.name), sizes) for entry in spec}
    _check_tokens_exist([made[entry.name] for entry in spec if entry.role is Role.MASK])
    return made


def example_inputs(
    spec: Sequence[ConditioningInput], batch: int, seed: int, *, padded: bool = True
) -> dict[str, Tensor]:
    """Made-up inputs for comparing numbers: noise, scalars at their default, and masks whose
    padding, if there is any, grows from sample to sample; the first has none."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for entry in spec:
        shape = _sized(entry, {BATCH: batch}, _FREE_EXAMPLE)
        if entry.role is Role.MASK:
            padding = torch.arange(batch) * shape[1] // (2 * batch) if padded else 0
            length = shape[1] - padding * torch.ones(batch, dtype=torch.long)
            tensor = torch.arange(shape[1])[None] < length[:, None]
        elif entry.role is Role.SCALAR:
            tensor = torch.full(shape, 1.0 if entry.default is None else entry.default)
        else:
            tensor = torch.randn(shape, generator=generator) - 0.2
        made[entry.name] = tensor.to(entry.dtype or torch.float32)
    return made


def example_shapes(spec: Sequence[ConditioningInput]) -> dict[str, Shape]:
    """Shape of each input of one sample, without the batch."""
    return {entry.name: _sized(entry, {BATCH: 1}, _FREE_EXAMPLE)[1:] for entry in spec}


def _sized(entry: ConditioningInput, sizes: Mapping[str, int], free: int) -> Shape:
    return tuple(sizes.get(size, free) if isinstance(size, str) else size for size in entry.shape)


def _filled_up(
    spec: Sequence[ConditioningInput], tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Masks where there are none, and texts that are too short padded to their mask's length."""
    filled = dict(tensors)
    text: ConditioningInput | None = None
    for entry in spec:
        if entry.role is Role.MASK and text is not None and text.name in filled:
            embedded, length = filled[text.name], entry.shape[1]
            if embedded.ndim < 2:
                continue
            mask = filled.get(entry.name)
            if mask is None:
                mask = embedded.new_ones(embedded.shape[:2], dtype=torch.int32)
            missing = length - embedded.shape[1] if isinstance(length, int) else 0
            if missing > 0 and mask.shape == embedded.shape[:2]:
                mask = F.pad(mask, (0, missing))
                filled[text.name] = F.pad(embedded, (0, 0) * (embedded.ndim - 2) + (0, missing))
            filled[entry.name] = mask
        elif entry.role is Role.EMBEDDING:
            text = entry
    return filled


def _check_tokens_exist(masks: Sequence[Tensor]) -> None:
    if masks and bool((torch.cat(list(masks), dim=1).sum(dim=1) == 0).any()):
        raise ModelError(
            "prompts: masks",
            expected="ones for the tokens of each prompt, then zeros for its padding at the end",
            actual="a prompt without any token",
        )


def _complete(entry: ConditioningInput, tensor: Tensor | None, sizes: dict[str, int]) -> Tensor:
    if tensor is None:
        if entry.default is None:
            raise ModelError(
                "prompts",
                expected=f"a tensor {entry.name}",
                actual="none",
                remedy="write every conditioning tensor of the model into the prompt file",
            )
        tensor = torch.full(_sized(entry, sizes, 1), entry.default)
    _check_shape(entry, tensor, sizes)
    if entry.role is Role.MASK:
        _check_mask(entry.name, tensor)
    return tensor if entry.dtype is None else tensor.to(entry.dtype)


def _check_shape(entry: ConditioningInput, tensor: Tensor, sizes: dict[str, int]) -> None:
    fits = tensor.ndim == len(entry.shape)
    if fits:
        for size, expected in zip(tensor.shape, entry.shape, strict=True):
            wanted = sizes.setdefault(expected, size) if isinstance(expected, str) else expected
            fits = fits and size == wanted
    if not fits:
        shape = ", ".join(str(sizes.get(size, size)) for size in map(_symbol, entry.shape))
        raise ModelError(
            f"prompts: {entry.name}",
            expected=f"shape [{shape}], as the model takes",
            actual=str(list(tensor.shape)),
            remedy="make the prompt file with the model's own encoders, for this resolution",
        )


def _symbol(size: int | str) -> str:
    return str(size)


def _check_mask(name: str, mask: Tensor) -> None:
    values = mask.to(torch.int64)
    is_mask = bool(((values == 0) | (values == 1)).all()) and bool((mask == values).all())
    if not is_mask or bool((values.diff(dim=1) > 0).any()):
        raise ModelError(
            f"prompts: {name}",
            expected="ones for the tokens of each prompt, then zeros for its padding",
            actual="other values, or padding that is not at the end",
            remedy="pad prompts on the right",
        )
