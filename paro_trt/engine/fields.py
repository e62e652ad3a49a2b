"""Values of a JSON document, each taken with a check; what is left over is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from ..documents import is_sha256, shown
from .errors import EngineError

MAX_TEXT = 1024
MAX_RANK = 8
MAX_SIZE = 1 << 40


class Fields:
    """One JSON object of a file, whose values are taken one by one.

    Every method raises EngineError, naming the value, if it is missing or not what was asked for.
    """

    def __init__(self, place: str, values: dict[str, Any], remedy: str) -> None:
        """`place` and `remedy` are for messages."""
        self.place = place
        self._values = dict(values)
        self._remedy = remedy

    @classmethod
    def of(cls, place: str, value: object, remedy: str) -> Fields:
        """An object that `value` must be."""
        if not isinstance(value, dict):
            raise EngineError(place, expected="an object", actual=shown(value), remedy=remedy)
        return cls(place, value, remedy)

    def refuse(self, name: str, expected: str, actual: str) -> NoReturn:
        """Raise EngineError about a value."""
        raise EngineError(
            f"{self.place}: {name}", expected=expected, actual=actual[:200], remedy=self._remedy
        )

    def finish(self) -> None:
        """Refuse values that nobody took."""
        if self._values:
            self.refuse(shown(next(iter(self._values))), "no such value", "one")

    def text(self, name: str, *, empty: bool = False) -> str:
        """One printable line."""
        value = self._take(name)
        fits = isinstance(value, str) and len(value) <= MAX_TEXT and (value or empty)
        if not fits or not value.isprintable():
            self.refuse(name, "a line of text", shown(value))
        return str(value)

    def sha256(self, name: str) -> str:
        """A hash."""
        value = self._take(name)
        if not isinstance(value, str) or not is_sha256(value):
            self.refuse(name, "a SHA-256 in lower-case hex", shown(value))
        return str(value)

    def integer(self, name: str, low: int, high: int) -> int:
        """A whole number in [low, high]."""
        value = self._take(name)
        if type(value) is not int or not low <= value <= high:
            self.refuse(name, f"an integer in [{low}, {high}]", shown(value))
        return int(value)

    def flag(self, name: str) -> bool:
        """True or false."""
        value = self._take(name)
        if not isinstance(value, bool):
            self.refuse(name, "true or false", shown(value))
        return bool(value)

    def choice(self, name: str, allowed: Sequence[str]) -> str:
        """One of a few words."""
        value = self._take(name)
        if not isinstance(value, str) or value not in allowed:
            self.refuse(name, f"one of {', '.join(allowed)}", shown(value))
        return str(value)

    def sizes(self, name: str, *, names: bool) -> tuple[int | str, ...]:
        """A shape: numbers and, if asked for, names of free sizes."""
        value = self._take(name)
        if not isinstance(value, list) or len(value) > MAX_RANK:
            self.refuse(name, f"a list of at most {MAX_RANK} sizes", shown(value))
        for size in value:
            named = names and isinstance(size, str) and 0 < len(size) <= 64 and size.isprintable()
            if not named and (type(size) is not int or not 0 < size <= MAX_SIZE):
                self.refuse(name, "positive sizes" + (" or names" if names else ""), shown(size))
        return tuple(value)

    def strings(self, name: str) -> dict[str, str]:
        """An object of text values."""
        value = self._take(name)
        texts = isinstance(value, dict) and all(isinstance(v, str) for v in value.values())
        if not texts:
            self.refuse(name, "an object of text values", shown(value))
        return dict(value)

    def record(self, name: str) -> Fields:
        """An object."""
        return Fields.of(f"{self.place}: {name}", self._take(name), self._remedy)

    def optional(self, name: str) -> Fields | None:
        """An object, or None where the value is null."""
        value = self._take(name)
        return None if value is None else Fields.of(f"{self.place}: {name}", value, self._remedy)

    def records(self, name: str, most: int) -> list[Fields]:
        """A list of at most `most` objects."""
        value = self._take(name)
        if not isinstance(value, list) or len(value) > most:
            self.refuse(name, f"a list of at most {most} objects", shown(value))
        return [
            Fields.of(f"{self.place}: {name}[{index}]", entry, self._remedy)
            for index, entry in enumerate(value)
        ]

    def _take(self, name: str) -> Any:
        if name not in self._values:
            self.refuse(name, "a value", "none")
        return self._values.pop(name)
