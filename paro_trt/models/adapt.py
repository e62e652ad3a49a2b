"""Changes to a model that leave its result alone, for `ModelFamily.adapted`; all are undone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from .base import Geometry, ModelFamily


def adapted_unless_exporting(
    family: ModelFamily, model: torch.nn.Module, geometry: Geometry
) -> AbstractContextManager[object]:
    """`family.adapted`, for forwards that may be traced.

    Under torch.export nothing has values, so that whoever exports enters `adapted` outside.
    """
    if torch.compiler.is_exporting():
        return nullcontext()
    return family.adapted(model, geometry)


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

    def constant(*_: object, **__: object) -> object:
        return result

    with replaced(owner, method, constant):
        yield
