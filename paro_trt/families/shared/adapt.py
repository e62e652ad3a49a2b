"""Changes to a model that leave its result alone, for `ModelFamily.adapted`; all are undone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..base import Geometry, ModelFamily


def adapted_unless_exporting(
    family: ModelFamily, model: torch.nn.Module, geometry: Geometry
) -> AbstractContextManager[object]:
    """`family.adapted`, for forwards that may be traced.

    Under torch.export nothing has values, so that whoever exports enters `adapted` outside.
    """
    if torch.compiler.is_exporting():
        return nullcontext()
    return family.adapted(model, geometry)


def tie_batches(first: Tensor, *others: Tensor) -> None:
    """Tell a tracer that tensors have one batch, where the model regroups one by another's."""
    for other in others:
        torch._check(other.shape[0] == first.shape[0])


@contextmanager
def replaced(owner: object, name: str, value: object) -> Iterator[None]:
    """Within the context an object's attribute, such as an attention's processor, is another one.

    Args:
        owner: a module, or any object whose attributes can be set.
        name: of a plain attribute, or of a method.
        value: what stands there instead.
    """
    own = vars(owner)
    had, before = name in own, own.get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if had:
            setattr(owner, name, before)
        else:
            delattr(owner, name)


@contextmanager
def constant_call(owner: object, method: str, *arguments: object) -> Iterator[None]:
    """Within the context every call of a method returns what this one call returns.

    For what depends on the geometry alone, such as rotary embeddings: computed once, outside the
    trace, they become constants of the exported graph, which then holds none of the float64 and
    complex arithmetic that TensorRT lacks.

    Args:
        owner: a module, or any object whose attributes can be set.
        method: such as "forward".
        arguments: of the one call.
    """
    with torch.no_grad():
        result = getattr(owner, method)(*arguments)

    def constant(*args: object, **kwargs: object) -> object:
        return on_device_of(result, *args, *kwargs.values())

    with replaced(owner, method, constant):
        yield


def constants_device(model: torch.nn.Module) -> torch.device:
    """Where to compute constants of a model: with its weights, or on the CPU where an offloaded
    model has none."""
    device = next(model.parameters()).device
    return torch.device("cpu") if device.type == "meta" else device


def on_device_of(constant: Any, *arguments: object) -> Any:
    """A constant, a tensor or tuple of tensors, on the device of a call's arguments.

    Offloading moves a model's weights after its constants were computed, so that where these are
    says nothing about where the call computes.

    Args:
        constant: unchanged if no argument has a device.
        arguments: of the call; the first that is a tensor or a device decides.
    """
    for argument in arguments:
        if isinstance(argument, (Tensor, torch.device)):
            device = argument.device if isinstance(argument, Tensor) else argument
            if isinstance(constant, Tensor):
                return constant.to(device)
            return tuple(on_device_of(part, device) for part in constant)
    return constant


class ReplacedFunctions(TorchFunctionMode):
    """Within the context functions of torch are computed by others, for what ONNX lacks.

    What replaces the sites' attention runs within it too: replacements must compute the same
    for whatever arguments they get.

    Args:
        functions: the replacement for each function, which may itself call the function.
    """

    def __init__(self, functions: Mapping[Callable[..., Any], Callable[..., Any]]) -> None:
        super().__init__()
        self._functions = functions

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        return self._functions.get(func, func)(*args, **(kwargs or {}))
