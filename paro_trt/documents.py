"""JSON documents decoded into msgspec Structs; whatever is wrong becomes a typed error of ours.

The Struct declares the document: names, types and ranges. This module adds what a declaration
cannot say (unique keys, finite numbers, valid Unicode, bounded nesting) and words the refusals.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, NoReturn, TypeVar

import msgspec

from .errors import ParoError

SHA256_PATTERN = r"^[0-9a-f]{64}\Z"
Sha256 = Annotated[str, msgspec.Meta(pattern=SHA256_PATTERN)]

_T = TypeVar("_T")

_SHOWN = 60

# msgspec's names of JSON types, as the refusals spell them.
_TYPES = {
    "int": "an integer",
    "float": "a finite number",
    "str": "a string",
    "bool": "true or false",
    "array": "a list",
    "object": "a JSON object",
    "null": "null",
}
_PATTERNS = {SHA256_PATTERN: "a SHA-256, 64 lower-case hexadecimal digits"}

# The shape of msgspec's messages; tests/test_documents.py holds msgspec to it.
_MESSAGE = re.compile(
    r"(?P<what>.*?)(?: - at (?P<key>`key` in )?`\$(?P<path>[^`]*)`)?\Z", re.DOTALL
)
_EXPECTED = re.compile(r"Expected `(?P<types>[^`]+)`(?P<limit>.*?)(?:, got `(?P<got>\w+)`)?\Z")
_STEP = re.compile(r"\.(?P<field>[^.\[\]]+)|\[(?P<index>\d+|\.\.\.)\]")

_ABSENT = object()


def shown(value: object) -> str:
    """A value as it may appear in an error: escaped, and short whatever its size."""
    if isinstance(value, str | bytes | list | tuple | dict) and len(value) > _SHOWN:
        return f"{type(value).__name__} of length {len(value)}"
    text = repr(value) if not isinstance(value, int) or value.bit_length() < 256 else "a huge int"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def decode_document(
    data: str | bytes,
    kind: type[_T],
    *,
    error: type[ParoError],
    file: str = "",
    name: str = "document",
    remedy: str = "",
) -> _T:
    """Decode JSON text into `kind`, a msgspec Struct.

    Args:
        data: the text; the caller bounds its size.
        kind: the Struct that declares the document.
        error: class of the error raised.
        file: put before the place of an error; empty where the caller names the file.
        name: what errors call the document itself.
        remedy: how the user gets a good document.

    Raises:
        error: the text is not JSON, repeats a key, or does not fit `kind`. The message gives the
            file, the JSON path, what was expected, what arrived and the remedy.
    """
    value = strict_json(data, error=error, file=file, name=name, remedy=remedy)
    return convert_document(value, kind, error=error, file=file, name=name, remedy=remedy)


def strict_json(
    data: str | bytes, *, error: type[ParoError], file: str = "", name: str, remedy: str = ""
) -> Any:
    """Parse JSON, refusing what parsers disagree on.

    Raises:
        error: the text is not JSON, repeats a key, nests too deeply, or holds NaN, an infinity, a
            number beyond a float's range, an integer of thousands of digits or invalid Unicode.
    """

    def refuse(path: str, expected: str, actual: str) -> NoReturn:
        raise error(
            _subject(file, path or name), expected=expected, actual=actual, remedy=remedy
        ) from None

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in pairs:
            if key in result:
                refuse("", "unique keys", f"key {shown(key)} twice")
            result[key] = value
        return result

    def constant(text: str) -> NoReturn:
        refuse("", "finite numbers", text)

    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
        value = json.loads(text, object_pairs_hook=once, parse_constant=constant)
    except ParoError:
        raise
    except RecursionError:
        refuse("", "JSON", "JSON nested too deeply")
    except json.JSONDecodeError as reason:
        refuse("", "JSON", f"text that is not JSON at character {reason.pos} ({reason.msg})")
    except ValueError as reason:  # bad UTF-8, or an integer of thousands of digits
        refuse("", "JSON", f"text that cannot be read ({type(reason).__name__})")

    pending: list[tuple[str, Any]] = [("", value)]
    while pending:
        path, item = pending.pop()
        if isinstance(item, float) and not math.isfinite(item):
            refuse(path, "a finite number", repr(item))
        elif isinstance(item, str) and not _is_unicode(item):
            refuse(path, "valid Unicode", f"a lone surrogate in {shown(item)}")
        elif isinstance(item, list):
            pending.extend((f"{path}[{i}]", child) for i, child in enumerate(item))
        elif isinstance(item, dict):
            for key, child in item.items():
                if not _is_unicode(key):
                    refuse(path, "valid Unicode", f"a lone surrogate in key {shown(key)}")
                pending.append((_join(path, key if key.isidentifier() else shown(key)), child))
    return value


def convert_document(
    value: object,
    kind: type[_T],
    *,
    error: type[ParoError],
    file: str = "",
    name: str = "document",
    remedy: str = "",
) -> _T:
    """Turn JSON values into `kind`, a msgspec Struct or any type that msgspec knows.

    Raises:
        error: the value does not fit. A `ParoError` that a Struct's `__post_init__` raises is
            raised again with its place in the document before its subject.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as reason:
        place, expected, actual = _explain(value, kind, reason)
        cause = reason.__cause__
        if isinstance(cause, ParoError):
            place = _join(place, cause.subject)
            expected, actual, remedy = cause.expected, cause.actual, cause.remedy or remedy
    except RecursionError:
        place, expected, actual = "", "a JSON document", "JSON nested too deeply"
    raise error(_subject(file, place or name), expected=expected, actual=actual, remedy=remedy)


def _explain(value: object, kind: object, reason: msgspec.ValidationError) -> tuple[str, str, str]:
    """Place, expected and actual of msgspec's refusal of `value` as `kind`."""
    message = _MESSAGE.fullmatch(str(reason))
    assert message is not None  # every part of the pattern is optional
    what, path = message["what"], message["path"] or ""
    expected = _EXPECTED.fullmatch(what)
    place, found = _follow(value, path, expected["got"] if expected else None)
    keys = "keys of " if message["key"] else ""
    if field := re.fullmatch(r"Object missing required field `(.*)`", what, re.DOTALL):
        return place, f"a field {shown(field[1])}", "none"
    if field := re.fullmatch(r"Object contains unknown field `(.*)`", what, re.DOTALL):
        return place, "only known fields", f"field {shown(field[1])}"
    actual = "another value" if found is _ABSENT else shown(found)
    if expected:
        types = " or ".join(_TYPES.get(name, name) for name in expected["types"].split(" | "))
        return place, keys + types + _limit(expected["limit"]), actual
    if what.startswith("Invalid enum value"):
        return place, f"one of {', '.join(map(str, _choices(kind, path)))}", actual
    if what == "Number out of range":
        return place, "a number that a float can hold", actual
    return place, "a value that fits", actual


def _limit(text: str) -> str:
    """What follows the type in msgspec's message: a bound, a length or a pattern."""
    pattern = re.fullmatch(r" matching regex '(.*)'", text)
    if pattern is None:
        return text
    known = _PATTERNS.get(pattern[1].replace("\\\\", "\\"))
    return f" that is {known}" if known else f" that matches {pattern[1]}"


def _follow(value: Any, path: str, got: str | None) -> tuple[str, Any]:
    """The place that a msgspec path names, and the value there."""
    place = ""
    for step in _STEP.finditer(path):
        if step["field"] is not None:
            place = _join(place, step["field"])
            value = value.get(step["field"], _ABSENT) if isinstance(value, Mapping) else _ABSENT
        elif step["index"] != "...":
            index = int(step["index"])
            place = f"{place}[{index}]"
            inside = isinstance(value, list | tuple) and index < len(value)
            value = value[index] if inside else _ABSENT
        else:  # msgspec does not say which key; the first value of the refused type is the one
            values = value if isinstance(value, Mapping) else {}
            key = next((k for k, v in values.items() if _type_name(v) == got), None)
            place = f"{place}[{'...' if key is None else shown(key)}]"
            value = _ABSENT if key is None else values[key]
    return place, value


def _choices(kind: object, path: str) -> tuple[object, ...]:
    """The values of the enum or Literal that `kind` declares at a msgspec path."""
    info: Any = msgspec.inspect.type_info(kind)
    for step in (*_STEP.finditer(path), None):
        if isinstance(info, msgspec.inspect.UnionType):  # an optional value
            info = next(t for t in info.types if not isinstance(t, msgspec.inspect.NoneType))
        if step is not None and step["field"] is not None:
            info = next(f.type for f in info.fields if f.encode_name == step["field"])
        elif step is not None:
            is_mapping = isinstance(info, msgspec.inspect.DictType)
            info = info.value_type if is_mapping else info.item_type
    if isinstance(info, msgspec.inspect.EnumType):
        return tuple(member.value for member in info.cls)
    return tuple(info.values)


def _type_name(value: object) -> str:
    if isinstance(value, list | tuple):
        return "array"
    names = {type(None): "null", dict: "object"}
    return names.get(type(value), type(value).__name__)


def _join(place: str, part: str) -> str:
    return f"{place}.{part}" if place else part


def _subject(file: str, place: str) -> str:
    return f"{file}: {place}" if file else place


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
