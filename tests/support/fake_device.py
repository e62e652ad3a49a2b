"""Models and tensors that claim to be on another device and hold no data: torch checks devices.

The device is torch's backend for private use, whose Python registration comes with the guards that
CUDA's tensors lack in a torch for the CPU: with "cuda" even `tensor[0]` raises there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

Nested = TypeVar("Nested")


@cache
def fake_device() -> torch.device:
    """A device that is not the CPU."""
    _setup_privateuseone_for_python_backend()
    return torch.device("privateuseone", 0)


@contextmanager
def fake_mode() -> Iterator[None]:
    """Within it an operation of tensors of two devices raises, as a GPU would; real tensors are
    those of the CPU. Comparisons that would read values hold."""
    with FakeTensorMode(allow_non_fake_inputs=True), _WithoutValues():
        yield


class _WithoutValues(TorchFunctionMode):
    """Checks of values pass, for there are none; a real tensor can move to the device."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is torch.equal:
            if args[0].device != args[1].device:
                raise RuntimeError(f"torch.equal of {args[0].device} and {args[1].device}")
            return True
        options = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and options.get("device") is not None:
            made = func(*args, **{**options, "device": None})
            return torch.empty(made.shape, dtype=made.dtype, device=options["device"])
        if func is Tensor.to and not isinstance(args[0], FakeTensor):
            real = args[0]
            fake = torch.empty_strided(real.shape, real.stride(), dtype=real.dtype)
            args = (fake, *args[1:])
        return func(*args, **(kwargs or {}))


def on_fake_device(value: Nested) -> Nested:
    """The tensors of a structure as fake ones on the device, within `fake_mode`."""

    def fake(tensor: Tensor) -> Tensor:
        return torch.empty_strided(
            tensor.shape, tensor.stride(), dtype=tensor.dtype, device=fake_device()
        )

    moved: Nested = tree_map_only(Tensor, fake, value)
    return moved


def move_to_fake_device(model: torch.nn.Module) -> torch.nn.Module:
    """What `model.to(device)` does, which fake parameters do not support."""
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            moved = torch.nn.Parameter(on_fake_device(parameter.detach()), requires_grad=False)
            delattr(module, name)
            module.register_parameter(name, moved)
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, on_fake_device(buffer))
    return model
