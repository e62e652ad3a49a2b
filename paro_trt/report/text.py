"""Texts and figures as the page shows them. The template escapes them; this module does not."""

from __future__ import annotations

from collections.abc import Sequence

TIMES = "\u00d7"

MAX_SHOWN = 400
"""Characters of a plan's free text that the page shows."""


def percent(share: float) -> str:
    """A share in percent; the space before the sign does not break."""
    value = 100 * share
    return f"{value:.{2 if 0 < abs(value) < 1 else 1}f}\u202f%"


def clipped(text: str) -> str:
    """A text, cut where it is too long to show."""
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…"


def first_of(texts: Sequence[str], count: int) -> list[str]:
    """The first texts, each clipped, and a line that says how many are left out."""
    lines = [clipped(text) for text in texts[:count]]
    if len(texts) > count:
        lines.append(f"… and {len(texts) - count} more")
    return lines


def short_names(names: Sequence[str]) -> list[str]:
    """Module paths without the parts that all of them share: blocks.0.attn1 becomes 0.

    Paths that differ in length or do not differ at all stay as they are.
    """
    parts = [name.split(".") for name in names]
    if len({len(path) for path in parts}) != 1:
        return list(names)
    telling = [len(set(column)) > 1 for column in zip(*parts, strict=True)]
    if not any(telling):
        return list(names)
    return [
        ".".join(part for part, tells in zip(path, telling, strict=True) if tells) for path in parts
    ]
