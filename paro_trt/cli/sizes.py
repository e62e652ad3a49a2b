"""Sizes on the command line: "frames,height,width", and "height,width" of an image."""

from __future__ import annotations

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
