"""A device whose tensors hold real data: the CPU computes, and the rules of devices are checked.

Operations of tensors of two devices raise, as with a GPU. What must be on the CPU, such as the
source of a NumPy array, raises where it is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from .fake_device import fake_device

# Copies between devices, which may name both.
_MOVES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}


class DeviceTensor(Tensor):
    """A tensor of the device; `held` is a tensor of the CPU with its values."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> DeviceTensor:
        made: DeviceTensor = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=fake_device(),
            requires_grad=held.requires_grad,
        )
        made.held = held
        return made

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"DeviceTensor({self.held!r})"

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        del types
        return computed(func, args, kwargs or {})


def computed(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The operation on the CPU, its results where torch would have put them."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    ours = [tensor for tensor in tensors if isinstance(tensor, DeviceTensor)]
    asked = kwargs.get("device")
    if func not in _MOVES and ours:
        for tensor in tensors:
            # A scalar of the CPU may take part everywhere.
            if not isinstance(tensor, DeviceTensor) and tensor.ndim:
                raise RuntimeError(f"{func}: tensors of {fake_device()} and {tensor.device}")
    on_device = bool(ours) if asked is None else torch.device(asked).type == fake_device().type
    if func is torch.ops.aten.copy_.default:
        on_device = isinstance(args[0], DeviceTensor)
    if asked is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    held_args, held_kwargs = tree_map_only(DeviceTensor, lambda tensor: tensor.held, (args, kwargs))
    result = func(*held_args, **held_kwargs)
    # What works in place returns its argument itself.
    same = {id(tensor.held): tensor for tensor in ours}
    if not on_device:
        return result

    def placed(tensor: Tensor) -> DeviceTensor:
        return same[id(tensor)] if id(tensor) in same else DeviceTensor(tensor)

    return tree_map_only(Tensor, placed, result)


class _Device(TorchDispatchMode):
    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        del types
        return computed(func, args, kwargs or {})


class _Values(TorchFunctionMode):
    """What makes tensors of Python's values, or the reverse, without a dispatched operation."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        del types
        options = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and options.get("device") is not None:
            return func(*args, **{**options, "device": "cpu"}).to(options["device"])
        if func is Tensor.tolist and isinstance(args[0], DeviceTensor):
            return args[0].held.tolist()
        return func(*args, **options)


@contextmanager
def device_on_cpu() -> Iterator[torch.device]:
    """Within it the device can be used; tensors come to it by `to_device` or by `Tensor.to`."""
    with _Device(), _Values():
        yield fake_device()


def to_device(pipe: Any) -> Any:
    """What `pipe.to(device)` does."""
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            _move(part)
    return pipe


def _move(model: torch.nn.Module) -> None:

    def moved(module: torch.nn.Module) -> None:
        for name, parameter in list(module.named_parameters(recurse=False)):
            module.register_parameter(
                name, torch.nn.Parameter(DeviceTensor(parameter.detach()), requires_grad=False)
            )
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, DeviceTensor(buffer))

    model.apply(moved)
