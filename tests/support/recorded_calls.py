"""The calls of a transformer's own forward, as whoever calls it makes them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class RecordedCall:
    """One call of a module's forward.

    Args:
        arguments: by name, without those that were left out.
        output: what it returned.
    """

    arguments: dict[str, Any]
    output: tuple[Tensor, ...]


@contextmanager
def recorded_calls(model: torch.nn.Module) -> Iterator[list[RecordedCall]]:
    """Within the context every call of the module lands in the list."""
    signature, calls = inspect.signature(model.forward), []

    def record(_: torch.nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        arguments = dict(signature.bind(*args, **kwargs).arguments)
        tensors = output if isinstance(output, tuple) else tuple(output.values())
        calls.append(RecordedCall(arguments, tensors))

    handle = model.register_forward_hook(record, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()
