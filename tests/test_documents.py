"""Documents decoded into Structs: each refusal names the file, the place and both sides."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Literal

import msgspec
import pytest
from msgspec import Meta

from paro_trt.documents import Sha256, decode_document
from paro_trt.errors import ArgumentError, ParoError


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A record inside a document."""

    size: Annotated[int, Meta(ge=1, le=16)]
    shares: tuple[Annotated[float, Meta(ge=0, le=1)], ...] = ()
    hash: Sha256 = "0" * 64
    bits: Literal[16, 8, 4] = 8
    colour: Colour | None = None

    def __post_init__(self) -> None:
        if self.size == 13:
            raise ArgumentError("size", expected="luck", actual="13", remedy="take 14")


class Whole(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A document."""

    parts: Annotated[tuple[Part, ...], Meta(min_length=1)]
    measured: dict[Annotated[str, Meta(max_length=8)], float] = {}
    title: str = ""
    flag: bool = False


def decode(text: str | bytes) -> Whole:
    return decode_document(text, Whole, error=ArgumentError, file="a.json", remedy="make it again")


def part(text: str) -> str:
    return f'{{"parts": [{{"size": 1}}, {text}]}}'


def whole(text: str) -> str:
    return f'{{"parts": [{{"size": 1}}], {text}}}'


# The text, and what the message says after the file's name.
REFUSED: dict[str, tuple[str | bytes, str]] = {
    "no JSON": ("{", "document: expected JSON, got text that is not JSON at character 1"),
    "bad UTF-8": (b'{"\xff": 1}', "document: expected JSON, got text that cannot be read"),
    "list": ("[]", "document: expected a JSON object, got []"),
    "key twice": (whole('"flag": true, "flag": true'), "unique keys, got key 'flag' twice"),
    "NaN": (whole('"measured": {"x": NaN}'), "document: expected finite numbers, got NaN"),
    "infinity": (
        whole('"measured": {"x": 1e999}'),
        "measured.x: expected a finite number, got inf",
    ),
    "huge text": (part(f'{{"size": {"9" * 5000}}}'), "document: expected JSON"),
    "huge int": (
        part(f'{{"size": {"9" * 4000}}}'),
        "parts[1].size: expected an integer <= 16, got a huge int",
    ),
    "huge int as float": (
        whole(f'"measured": {{"x": {"9" * 4000}}}'),
        "measured[...]: expected a number that a float can hold",
    ),
    "deep": (whole(f'"title": {"[" * 200_000}'), "document: expected JSON, got JSON nested"),
    "surrogate": (whole('"title": "\\ud800"'), "title: expected valid Unicode, got a lone"),
    "surrogate key": (whole('"\\ud800": 1'), "document: expected valid Unicode, got a lone"),
    "missing": (part("{}"), "parts[1]: expected a field 'size', got none"),
    "unknown": (whole('"x": 1'), "document: expected only known fields, got field 'x'"),
    "unknown and long": (whole(f'"{"x" * 9999}": 1'), "got field str of length 9999"),
    "unknown as a place": (whole('"x` - at `$.parts[7].q": 1'), "expected only known fields"),
    "float for int": (part('{"size": 1.0}'), "parts[1].size: expected an integer, got 1.0"),
    "bool for int": (part('{"size": true}'), "parts[1].size: expected an integer, got True"),
    "int for bool": (whole('"flag": 1'), "flag: expected true or false, got 1"),
    "below": (part('{"size": 0}'), "parts[1].size: expected an integer >= 1, got 0"),
    "share": (
        part('{"size": 1, "shares": [0, 2]}'),
        "parts[1].shares[1]: expected a finite number <= 1.0, got 2",
    ),
    "text for list": (
        part('{"size": 1, "shares": "0"}'),
        "parts[1].shares: expected a list, got '0'",
    ),
    "text for record": (part('"x"'), "parts[1]: expected a JSON object, got 'x'"),
    "no parts": ('{"parts": []}', "parts: expected a list of length >= 1, got []"),
    "hash": (
        part('{"size": 1, "hash": "F"}'),
        "parts[1].hash: expected a string that is a SHA-256, 64 lower-case hexadecimal digits, got",
    ),
    "hash with a line end": (part(f'{{"size": 1, "hash": "{"0" * 64}\\n"}}'), "parts[1].hash"),
    "literal": (part('{"size": 1, "bits": 5}'), "parts[1].bits: expected one of 4, 8, 16, got 5"),
    "enum": (
        part('{"size": 1, "colour": "green"}'),
        "parts[1].colour: expected one of red, blue, got 'green'",
    ),
    "value of a mapping": (
        whole('"measured": {"a": 1, "b": "2"}'),
        "measured['b']: expected a finite number, got '2'",
    ),
    "key of a mapping": (
        whole('"measured": {"abcdefghi": 1}'),
        "measured: expected keys of a string of length <= 8",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusal(name: str) -> None:
    text, message = REFUSED[name]
    with pytest.raises(ParoError) as caught:
        decode(text)
    error, spelled = caught.value, str(caught.value)
    assert type(error) is ArgumentError
    assert error.subject.startswith("a.json: ")
    assert message in spelled
    assert error.remedy == "make it again"
    assert spelled.isprintable()
    assert len(spelled) < 300


def test_a_record_refuses_for_itself() -> None:
    with pytest.raises(ArgumentError) as caught:
        decode(part('{"size": 13}'))
    assert caught.value.subject == "a.json: parts[1].size"
    assert (caught.value.expected, caught.value.remedy) == ("luck", "take 14")


def test_a_document_that_fits() -> None:
    document = decode(part('{"size": 2, "shares": [0, 1], "bits": 4, "colour": "red"}'))
    assert document.parts[1] == Part(2, (0.0, 1.0), bits=4, colour=Colour.RED)
    assert isinstance(document.parts[1].shares[0], float)
