"""Sizes on the command line: "frames,height,width", and "height,width" of an image."""

from __future__ import annotations

import re
from typing import Literal

from ..errors import ArgumentError


def parse_size(option: str, text: str) -> tuple[int, int, int]:
    """(frames, height, width) from the text of an option.

    Raises:
        ArgumentError: the text is not "F,H,W".
    """
    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().isdecimal() for part in parts):
        raise ArgumentError(
            option, expected="frames,height,width, such as 21,60,104", actual=repr(text)
        )
    frames, height, width = (int(part) for part in parts)
    return frames, height, width


def parse_picture_size(option: str, text: str) -> tuple[int, int]:
    """(height, width) from the text of an option; ArgumentError if the text is not "H,W"."""
    parts = text.split(",")
    if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
        raise ArgumentError(option, expected="height,width, such as 1024,1024", actual=repr(text))
    height, width = (int(part) for part in parts)
    return height, width


def size_text(size: tuple[int, int, int]) -> str:
    """The same as an option has it."""
    return ",".join(map(str, size))


def parse_bytes(option: str, text: str) -> int:
    """Bytes from a text such as "512MB" or "2GB", powers of ten; ArgumentError if it is none."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(MB|GB)", text.strip(), re.IGNORECASE)
    if match is None or float(match[1]) == 0:
        raise ArgumentError(option, expected="a size such as 512MB or 2GB", actual=repr(text))
    return round(float(match[1]) * (10**9 if match[2].upper() == "GB" else 10**6))


def parse_budget(text: str) -> int | Literal["auto"]:
    """Bytes of a weight streaming budget, or "auto"; ArgumentError if it is neither."""
    return "auto" if text == "auto" else parse_bytes("--weight-streaming-budget", text)
