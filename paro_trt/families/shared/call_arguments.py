"""The arguments of a call of a transformer's own forward, for `ModelFamily.read_call`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...errors import ArgumentError
from ..base import (
    TIMESTEPS,
    ConditioningInput,
    Config,
    Geometry,
    ModelCall,
    ModelFamily,
)


class CallArguments:
    """Keyword arguments by name. Each is read; what is left with content is refused.

    So a family need not list what it does not serve (ControlNet residuals, skipped layers,
    IP-adapter images, a LoRA scale), and an argument that a later diffusers adds is not ignored.

    Args:
        call: arguments of the module's forward; those with a default may be missing.
    """

    def __init__(self, call: Mapping[str, Any]) -> None:
        self._call = call
        self._unread = set(call) - {"return_dict"}

    def optional(self, name: str) -> Any:
        """The argument, None where it is missing."""
        self._unread.discard(name)
        return self._call.get(name)

    def tensor(self, name: str, ndim: int | None = None) -> Tensor:
        """An argument that must be a tensor; ArgumentError otherwise.

        Args:
            name: of the argument.
            ndim: its number of axes; None for any.
        """
        value = self.optional(name)
        if not isinstance(value, Tensor):
            raise ArgumentError(name, expected="a tensor", actual=type(value).__name__)
        if ndim is not None and value.ndim != ndim:
            raise ArgumentError(name, expected=f"{ndim} axes", actual=str(list(value.shape)))
        return value

    def given(self, *names: str) -> dict[str, Tensor]:
        """Those of the arguments that are tensors, by name."""
        values = {name: self.optional(name) for name in names}
        return {name: self.tensor(name) for name, value in values.items() if value is not None}

    def timestep(self, batch: int, scale: float = TIMESTEPS) -> Tensor:
        """float32 [B] in 0..1000 of a number, [B], or [B, tokens] that are the same in a sample.

        Args:
            batch: B.
            scale: the caller's timestep of pure noise.

        Raises:
            ArgumentError: the tokens of a sample differ in their timestep, or there is none.
        """
        value = self.optional("timestep")
        if not isinstance(value, (Tensor, int, float)):
            raise ArgumentError("timestep", expected="a number or a tensor", actual=str(value)[:80])
        own = torch.as_tensor(value).detach().float()
        if own.ndim > 1:
            rows = own.flatten(1)
            own = rows[:, 0]
            if not bool((rows == own[:, None]).all()):
                raise ArgumentError(
                    "timestep",
                    expected="one for each sample",
                    actual="tokens of one sample at several timesteps",
                    remedy="use a pipeline that denoises all frames together",
                )
        if own.ndim and len(own) not in (1, batch):
            raise ArgumentError(
                "timestep", expected=f"one for each of {batch} samples", actual=str(len(own))
            )
        return (own * (TIMESTEPS / scale)).expand(batch)

    def integers(self, *names: str) -> tuple[int, int, int]:
        """Frames, height and width that a call says apart from its latents."""
        values = [self.optional(name) for name in names]
        for name, value in zip(names, values, strict=True):
            if not isinstance(value, int) or value < 1:
                raise ArgumentError(name, expected="a positive integer", actual=repr(value)[:80])
        frames, height, width = values
        return frames, height, width

    def require_equal_timestep(self, name: str, timestep: Tensor) -> None:
        """ArgumentError unless an argument, if it is there, is the timestep [B] of the call."""
        value = self.optional(name)
        if value is not None and not bool((torch.as_tensor(value).float() == timestep).all()):
            raise ArgumentError(
                name,
                expected="the call's timestep",
                actual="another",
                remedy="use a pipeline that denoises video and sound on one schedule",
            )

    def mask(self, name: str, text_name: str) -> Tensor:
        """int32 [B, L]: which tokens of a text exist; every token where there is no mask.

        Args:
            name: of the mask, of any type.
            text_name: of the text [B, L, C].

        Raises:
            ArgumentError: it is not of the text's size, or its padding is not at the end.
        """
        text = self.tensor(text_name, ndim=3)
        value = self.optional(name)
        if value is None:
            return torch.ones(text.shape[:2], dtype=torch.int32, device=text.device)
        mask = (self.tensor(name) > 0).to(torch.int32)
        if mask.shape != text.shape[:2]:
            raise ArgumentError(
                f"{name} of {text_name}",
                expected=str(list(text.shape[:2])),
                actual=str(list(mask.shape)),
            )
        if bool((mask.diff(dim=1) > 0).any()):
            raise ArgumentError(
                name,
                expected="ones for the tokens of each prompt, then zeros for its padding",
                actual="padding that is not at the end",
                remedy="let the tokenizer pad on the right",
            )
        return mask

    def require(
        self, name: str, expected: object, *, default: object = None, remedy: str = ""
    ) -> None:
        """ArgumentError unless an argument is what it must be.

        Args:
            name: of the argument.
            expected: a number, a tuple of them, or None.
            default: what the module's forward takes where the argument is left out.
            remedy: where another one comes from.
        """
        value = self.optional(name)
        value = default if value is None else value
        actual = tuple(value) if isinstance(value, (list, tuple)) else value
        if actual != expected:
            raise ArgumentError(
                name, expected=str(expected), actual=str(actual)[:80], remedy=remedy
            )

    def require_positions(self, name: str, expected: Tensor) -> None:
        """ArgumentError unless position ids or tables, of one sample or each, are the expected."""
        actual = self.tensor(name)
        wanted = expected.to(actual)
        fits = actual.shape[-wanted.ndim :] == wanted.shape
        if not fits or not torch.allclose(actual, wanted.expand_as(actual), atol=1e-4):
            raise ArgumentError(
                name,
                expected=f"the positions {list(wanted.shape)} of the model's own pipeline",
                actual=f"{'others' if fits else list(actual.shape)}",
                remedy="sizes or images that the family does not serve; see docs/families.md",
            )

    def refuse_others(self) -> None:
        """ArgumentError if an argument that was not read has content."""
        for name in sorted(self._unread):
            value = self._call[name]
            listed = isinstance(value, (Mapping, list, tuple))
            if not (value is None or value is False or (listed and not value)):
                shown = list(value.shape) if isinstance(value, Tensor) else repr(value)[:80]
                raise ArgumentError(
                    name,
                    expected="none: a planned model has no such input",
                    actual=str(shown),
                    remedy="leave it out of the pipeline's call; fuse a LoRA with fuse_lora()",
                )


def finished_call(
    family: ModelFamily,
    config: Config,
    arguments: CallArguments,
    *,
    size: tuple[int, int, int],
    latents: Tensor,
    timestep: Tensor,
    inputs: Mapping[str, Tensor],
) -> ModelCall:
    """The call of a family whose parts were read, checked against the family's spec.

    Args:
        family: the model's.
        config: the model's.
        arguments: all that matter were read.
        size: (frames, height, width) of the latents, as `family.grid` takes them.
        latents: [B, *latent_shape].
        timestep: float32 [B].
        inputs: conditioning; what is of one sample serves all.

    Raises:
        ArgumentError: an argument is left that has content, a tensor is missing or of another
            shape.
        ModelError: the family has no such grid or text.
    """
    layout = family.text_layout(config, {name: tuple(x.shape[1:]) for name, x in inputs.items()})
    geometry = Geometry(family.grid(config, size), layout)
    _require_shape("hidden_states", tuple(latents.shape[1:]), family.latent_shape(config, geometry))
    spec = {entry.name: entry for entry in family.conditioning_spec(config, geometry)}
    for name in sorted(inputs.keys() - spec.keys()):
        raise ArgumentError(name, expected="none: the model takes none", actual="a tensor")
    complete = {}
    for name, entry in spec.items():
        if name in inputs:
            complete[name] = _of_spec(entry, inputs[name], len(latents))
        elif entry.default is None:
            raise ArgumentError(name, expected="a tensor, which the model needs", actual="none")
    for name, positions in family.constants(config, geometry).items():
        arguments.require_positions(name, positions)
    arguments.refuse_others()
    return ModelCall(latents, timestep, complete, geometry)


def _of_spec(entry: ConditioningInput, tensor: Tensor, batch: int) -> Tensor:
    expected: tuple[int | str, ...] = entry.shape[1:]
    if tensor.ndim == len(entry.shape):
        sizes = zip(expected, tensor.shape[1:], strict=True)
        expected = tuple(actual if isinstance(size, str) else size for size, actual in sizes)
    _require_shape(entry.name, tuple(tensor.shape[1:]), expected)
    if len(tensor) not in (1, batch):
        raise ArgumentError(
            entry.name, expected=f"{batch} samples, as the latents", actual=str(len(tensor))
        )
    return tensor.expand(batch, *tensor.shape[1:])


def _require_shape(name: str, actual: tuple[int, ...], expected: tuple[int | str, ...]) -> None:
    if actual != expected:
        raise ArgumentError(
            name,
            expected=f"[B, {', '.join(map(str, expected))}]",
            actual=f"[B, {', '.join(map(str, actual))}]",
        )
