"""Checks of single values. Each returns the value as a plain Python type or raises `PlanError`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..documents import shown
from ..errors import PlanError
from .limits import MAX_LABEL


@contextmanager
def within(place: str) -> Iterator[None]:
    """Put `place` before the subject of any `PlanError` raised in the block."""
    try:
        yield
    except PlanError as error:
        raise PlanError(
            f"{place}: {error.subject}",
            expected=error.expected,
            actual=error.actual,
            remedy=error.remedy,
        ) from error.__cause__


def integer(subject: str, value: object, low: int, high: int) -> int:
    """An int in [low, high]; NumPy integers pass, booleans and floats do not."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise PlanError(subject, expected="an integer", actual=shown(value))
    number = int(value)
    if not low <= number <= high:
        raise PlanError(subject, expected=f"an integer in [{low}, {high}]", actual=shown(number))
    return number


def number(subject: str, value: object, low: float = -math.inf, high: float = math.inf) -> float:
    """A finite float in [low, high]."""
    limits = "" if math.isinf(low) and math.isinf(high) else f" in [{low:g}, {high:g}]"
    expected = f"a finite number{limits}"
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.number):
        raise PlanError(subject, expected=expected, actual=shown(value))
    try:
        result = float(value)
    except (OverflowError, TypeError):
        raise PlanError(subject, expected=expected, actual=shown(value)) from None
    if not math.isfinite(result) or not low <= result <= high:
        raise PlanError(subject, expected=expected, actual=shown(value))
    return result


def flag(subject: str, value: object) -> bool:
    """A boolean."""
    if not isinstance(value, bool | np.bool_):
        raise PlanError(subject, expected="true or false", actual=shown(value))
    return bool(value)


def choice(subject: str, value: object, allowed: Sequence[int]) -> int:
    """One of a few integers."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value not in allowed:
        options = ", ".join(map(str, allowed))
        raise PlanError(subject, expected=f"one of {options}", actual=shown(value))
    return int(value)


def text(subject: str, value: object) -> str:
    """A string that UTF-8 can hold (JSON can spell some that it cannot)."""
    if not isinstance(value, str):
        raise PlanError(subject, expected="a string", actual=shown(value))
    try:
        value.encode()
    except UnicodeEncodeError:
        raise PlanError(
            subject, expected="valid Unicode", actual=f"a lone surrogate in {shown(value)}"
        ) from None
    return value


def label(subject: str, value: object) -> str:
    """A name: one printable line of 1 to 256 characters."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_LABEL or not value.isprintable():
        raise PlanError(
            subject,
            expected=f"a printable name of 1 to {MAX_LABEL} characters",
            actual=shown(value),
        )
    return value


def items(subject: str, value: object) -> tuple[Any, ...]:
    """A tuple or list, as a tuple."""
    if not isinstance(value, tuple | list):
        raise PlanError(subject, expected="a sequence", actual=shown(value))
    return tuple(value)


def unique(subject: str, names: Sequence[str]) -> None:
    """Refuse a name that occurs twice."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise PlanError(subject, expected="unique names", actual=f"{name!r} twice")
        seen.add(name)


def array(subject: str, value: object, dtype: DTypeLike, ndim: int) -> NDArray[Any]:
    """A read-only, C-contiguous array of exactly this dtype and rank; a writable one is copied."""
    wanted = np.dtype(dtype)
    if not isinstance(value, np.ndarray) or value.dtype != wanted or value.ndim != ndim:
        actual = (
            f"{value.dtype} of shape {list(value.shape)}"
            if isinstance(value, np.ndarray)
            else shown(value)
        )
        raise PlanError(subject, expected=f"{wanted} of {ndim} dimensions", actual=actual)
    frozen = value.copy(order="C") if value.flags.writeable else np.ascontiguousarray(value)
    frozen.setflags(write=False)
    return frozen


def shape(subject: str, value: NDArray[Any], wanted: tuple[int, ...], symbols: str) -> None:
    """Refuse an array whose shape is not `wanted`; `symbols` says what its axes are."""
    if value.shape != wanted:
        raise PlanError(
            subject, expected=f"shape {symbols} = {list(wanted)}", actual=f"{list(value.shape)}"
        )


def of_type(subject: str, value: object, wanted: type) -> None:
    """Refuse a value that is no instance of `wanted`."""
    if not isinstance(value, wanted):
        raise PlanError(subject, expected=f"a {wanted.__name__}", actual=shown(value))
