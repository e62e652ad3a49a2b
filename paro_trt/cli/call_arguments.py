"""`--argument NAME=VALUE`: arguments of a pipeline's call that have no option of their own."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from ..errors import ArgumentError


def call_arguments(texts: Iterable[str]) -> dict[str, Any]:
    """NAME=VALUE pairs; a value that is not JSON is text."""
    values: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise ArgumentError("--argument", expected="NAME=VALUE", actual=repr(text)[:80])
        try:
            values[name] = json.loads(value)
        except ValueError:
            values[name] = value
    return values
