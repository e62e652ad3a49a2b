"""Calls of a transformer, recorded in a denoising run: what every pass of a calibration replays."""

from __future__ import annotations

import inspect
import io
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ArgumentError, ModelError
from ..files import atomic_write

_PLAIN = (bool, int, float, str, torch.dtype, torch.Size)


@dataclass(frozen=True)
class RecordedCall:
    """One call of a transformer's own forward, for one sample.

    Args:
        arguments: by the names of forward's parameters: tensors, plain values, and lists, tuples
            and dicts of them.
        timestep: in 0..1000, 1000 being pure noise.
        key_length: tokens of the attention sequence that exist; None: text is never padded.
        negative: arguments of the same step's call for the negative prompt, which was guided away
            from; None: there was none, it was in the same batch, or the run ended before it.
        negative_length: its `key_length`.
        guidance: w of the prediction v_negative + w (v - v_negative); 1 without `negative`.
    """

    arguments: Mapping[str, Any]
    timestep: float
    key_length: int | None = None
    negative: Mapping[str, Any] | None = None
    negative_length: int | None = None
    guidance: float = 1.0

    def guided_by(self, negative: RecordedCall, guidance: float) -> RecordedCall:
        """With the call of the negative prompt."""
        return replace(
            self,
            negative=negative.arguments,
            negative_length=negative.key_length,
            guidance=guidance,
        )

    def negative_call(self) -> RecordedCall | None:
        """The call of the negative prompt, if it was recorded."""
        if self.negative is None:
            return None
        return RecordedCall(self.negative, self.timestep, self.negative_length)

    def to(self, device: torch.device) -> dict[str, Any]:
        """The arguments, their tensors on a device."""
        moved: dict[str, Any] = _mapped(self.arguments, lambda tensor: tensor.to(device))
        return moved

    def save(self, path: Path) -> None:
        """Write the call to a file, whole or not at all.

        Raises:
            ParoError: the file cannot be written.
        """
        save_values(path, vars(self))

    @classmethod
    def load(cls, path: Path) -> RecordedCall:
        """Read what `save` wrote; nothing in the file is executed.

        Raises:
            ArgumentError: the file is missing or damaged.
        """
        return cls(**load_values(path))


def save_values(path: Path, values: Mapping[str, Any]) -> None:
    """Write tensors and plain values to a file, whole or not at all.

    Raises:
        ParoError: the file cannot be written.
    """
    buffer = io.BytesIO()
    torch.save(dict(values), buffer)
    with atomic_write(path) as file:
        file.write(buffer.getbuffer())


def load_values(path: Path) -> dict[str, Any]:
    """Read what `save_values` wrote, onto the CPU; nothing in the file is executed.

    Raises:
        ArgumentError: the file is missing or damaged.
    """
    try:
        values: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, TypeError, EOFError, pickle.UnpicklingError) as error:
        raise ArgumentError(
            str(path),
            expected="a recorded call of the unfinished calibration",
            actual=f"{type(error).__name__}: {str(error).splitlines()[0][:120]}",
            remedy="delete its directory and start again",
        ) from error
    return values


@contextmanager
def watched_calls(
    models: Sequence[torch.nn.Module],
    watch: Callable[[torch.nn.Module, Mapping[str, Any]], None],
) -> Iterator[None]:
    """Within the context `watch` sees every call of the models, before it runs.

    Args:
        models: diffusers transformers, whoever calls them.
        watch: called with the model and the call's arguments by name. An exception of it ends the
            caller's run.
    """

    def before(model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        watch(model, signatures[model].bind(*args, **kwargs).arguments)

    # A hook of the model's own class: offloading replaces `forward`, and calls it later.
    signatures = {model: inspect.signature(type(model).forward) for model in models}
    signatures = {model: _without_self(signature) for model, signature in signatures.items()}
    with ExitStack() as stack:
        for model in models:
            hook = model.register_forward_pre_hook(before, with_kwargs=True, prepend=True)
            stack.callback(hook.remove)
        yield


def one_sample(arguments: Mapping[str, Any], batch: int) -> dict[str, Any]:
    """The last sample of a call's batch, its tensors copied to the CPU.

    A pipeline that guides within one batch puts the negative prompt first and the prompt last.
    Tensors and lists with one entry for each sample are cut; all else belongs to every sample.

    Raises:
        ModelError: an argument is none that can be stored.
    """
    chosen = {}
    for name, value in arguments.items():
        rows = isinstance(value, Tensor) and value.ndim > 0 and len(value) == batch
        listed = isinstance(value, list) and len(value) == batch
        chosen[name] = value[-1:] if batch > 1 and (rows or listed) else value
    for name, value in chosen.items():
        _require_plain(name, value)
    copied: dict[str, Any] = _mapped(chosen, lambda tensor: tensor.detach().to("cpu", copy=True))
    return copied


def _without_self(signature: inspect.Signature) -> inspect.Signature:
    return signature.replace(parameters=list(signature.parameters.values())[1:])


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same structure with every tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _mapped(item, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
        return type(value)([_mapped(item, change) for item in value])
    return value


def _require_plain(name: str, value: Any) -> None:
    if value is None or isinstance(value, (Tensor, *_PLAIN)):
        return
    if isinstance(value, Mapping) and all(isinstance(key, (str, int)) for key in value):
        for item in value.values():
            _require_plain(name, item)
    elif type(value) in (list, tuple):
        for item in value:
            _require_plain(name, item)
    else:
        raise ModelError(
            f"the transformer's argument {name}",
            expected="tensors and plain values, which can be recorded and replayed",
            actual=f"a {type(value).__name__}",
            remedy="calibrate without it",
        )
