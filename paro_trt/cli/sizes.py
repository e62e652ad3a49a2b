"""Numbers on the command line: sizes as "frames,height,width", bytes, timesteps."""

from __future__ import annotations

import re
from typing import Literal

from ..errors import ArgumentError

VIDEO_HELP = "Frames, height and width in pixels: 81,480,832 is 81 frames of 832 x 480."
PICTURE_HELP = "Height and width of an image in pixels: 768,1024 is 1024 x 768."
"""Of options that `parse_video_size` and `parse_picture_size` read."""

_VAE_STEP = 8
"""Pixels that every VAE of the families puts into one latent, at least."""


def parse_latent_size(option: str, text: str) -> tuple[int, int, int]:
    """(frames, height, width) of latents; ArgumentError if the text is not "F,H,W"."""
    frames, height, width = _numbers(option, text, "frames,height,width of latents", "21,60,104")
    return frames, height, width


def parse_video_size(option: str, text: str) -> tuple[int, int, int]:
    """(frames, height, width) of a video in pixels.

    Raises:
        ArgumentError: the text is not "F,H,W", or certainly in another order; the message has the
            right form.
    """
    frames, height, width = _numbers(option, text, _VIDEO, "81,480,832")
    if width % _VAE_STEP and not (frames % _VAE_STEP or height % _VAE_STEP):
        raise _misordered(option, text, _VIDEO, (frames, height, width))
    return frames, height, width


def parse_picture_size(option: str, text: str) -> tuple[int, int]:
    """(height, width) of an image in pixels; ArgumentError if the text is not "H,W"."""
    height, width = _numbers(option, text, _PICTURE, "768,1024")
    return height, width


_VIDEO, _PICTURE = "frames,height,width in pixels", "height,width in pixels"


def _numbers(option: str, text: str, order: str, example: str) -> list[int]:
    """As many numbers as the order has, with commas between them."""
    count = order.count(",") + 1
    parts = [part.strip() for part in text.split(",")]
    if len(parts) == count and all(part.isdecimal() for part in parts):
        return [int(part) for part in parts]
    found = [int(number) for number in re.findall(r"\d+", text)]
    if len(found) == count and order in (_VIDEO, _PICTURE):
        raise _misordered(option, text, order, tuple(found))
    raise ArgumentError(option, expected=f"{order}, such as {example}", actual=repr(text))


def _misordered(option: str, text: str, order: str, found: tuple[int, ...]) -> ArgumentError:
    """The error of a size like 832x480x81: others write the width first and the frames last."""
    if order == _VIDEO and found[0] < found[2]:
        frames, (height, width) = found[:1], found[1:]
    else:
        (width, height), frames = found[:2], found[2:]
    shown = ",".join(map(str, (*frames, height, width)))
    what = f"{frames[0]} frames of {width} x {height}" if frames else f"{width} x {height}"
    return ArgumentError(
        option, expected=order, actual=repr(text), remedy=f"{option} {shown} is {what}"
    )


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


def parse_timesteps(option: str, text: str) -> tuple[float, ...]:
    """Numbers from a text such as "1000,750,500,250"; ArgumentError if it is none."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ArgumentError(
            option, expected="numbers, such as 1000,750,500,250", actual=repr(text)[:80]
        ) from None
