"""Which diffusers releases the families are tested with."""

from __future__ import annotations

import os

from ...errors import ModelError

OLDEST, NEWEST = (0, 35), (0, 42)
"""Minor releases at both ends; tests/families/test_families.py passes on each."""

BACKEND_VARIABLE = "DIFFUSERS_ATTN_BACKEND"
"""Environment variable by which diffusers chooses who computes attention."""


def check_diffusers(oldest: tuple[int, int] = OLDEST) -> None:
    """Raise ModelError unless the installed diffusers is in the tested range and can be imported.

    Args:
        oldest: release; later than `OLDEST` for families whose class came or was fixed later.
    """
    import diffusers

    numbers = installed_release()
    if len(numbers) != 2 or not oldest <= numbers <= NEWEST:
        low, high = (".".join(map(str, release)) for release in (oldest, NEWEST))
        raise ModelError(
            "diffusers",
            expected=f"a release from {low} to {high}",
            actual=f"version {diffusers.__version__}",
            remedy=f'pip install "diffusers>={low},<0.{NEWEST[1] + 1}"',
        )
    if chosen := os.environ.get(BACKEND_VARIABLE):
        try:
            import diffusers.models.attention_dispatch
        except ValueError as error:
            raise ModelError(
                BACKEND_VARIABLE,
                expected=f"an attention backend of diffusers {diffusers.__version__}",
                actual=repr(chosen)[:80],
                remedy=f"unset {BACKEND_VARIABLE}",
            ) from error


def installed_release() -> tuple[int, ...]:
    """Major and minor number of the installed diffusers."""
    import diffusers

    parts = diffusers.__version__.split(".")
    return tuple(int(part) for part in parts[:2] if part.isdecimal())
