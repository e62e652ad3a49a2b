"""Objects that offer the public names of one class of one TensorRT release, and no other."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .stub_tensorrt import StubTensorRt


class Choice(Enum):
    """An enum of pybind's kind: int() of a member is its number, and it is nothing else."""

    def __int__(self) -> int:
        return self.value


class Guarded:
    """An object with the public names of one class of one release."""

    def __init__(self, trt: StubTensorRt) -> None:
        self._trt = trt

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_"):
            return object.__getattribute__(self, name)
        said = self._offered(name)
        value = object.__getattribute__(self, name)
        return _checked(name, said, value) if isinstance(said, list) else value

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_"):
            assert self._offered(name) == "property", f"{name} cannot be set"
        object.__setattr__(self, name, value)

    def _offered(self, name: str) -> Any:
        names = self._trt.surface.get(type(self).__name__, {})
        if name not in names:
            raise AttributeError(f"{type(self).__name__} of {self._trt.version} has no {name}")
        return names[name]


def _checked(name: str, overloads: list[str], method: Any) -> Any:
    def call(*arguments: Any, **named: Any) -> Any:
        assert any(_fits(overload, arguments, named) for overload in overloads), (
            f"{name}{arguments} {named} is none of {overloads}"
        )
        return method(*arguments, **named)

    return call


def _fits(overload: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> bool:
    parameters = [part.strip() for part in overload.split(",") if part.strip()]
    names = [part.rstrip("=") for part in parameters]
    given = {*names[: len(arguments)], *named}
    required = {part for part in parameters if not part.endswith("=")}
    return len(arguments) <= len(names) and required <= given <= set(names)
