"""Numbers on the command line: sizes as "frames,height,width", bytes, timesteps."""

from __future__ import annotations

import re

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


def parse_timesteps(option: str, text: str) -> tuple[float, ...]:
    """Numbers from a text such as "1000,750,500,250"; ArgumentError if it is none."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ArgumentError(
            option, expected="numbers, such as 1000,750,500,250", actual=repr(text)[:80]
        ) from None
