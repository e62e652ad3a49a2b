"""Verbs of later releases: they refuse by name, so that no script takes silence for success."""

from __future__ import annotations

from collections.abc import Callable

import typer

from .. import __version__
from ..errors import NotInThisReleaseError

PLANNED = {
    "triton": "write a model repository for Triton Inference Server",
}


def add_to(app: typer.Typer) -> None:
    """Add every planned verb."""
    for verb, purpose in PLANNED.items():
        app.command(
            verb,
            help=f"(not in this release) {purpose[0].upper()}{purpose[1:]}.",
            # Whatever the options will be, the answer is the refusal, not "no such option".
            context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
            add_help_option=True,
        )(_refusal(verb, purpose))


def _refusal(verb: str, purpose: str) -> Callable[[], None]:
    def refuse() -> None:
        raise NotInThisReleaseError(
            f"paro-trt {verb}",
            expected=f"a later release, which will {purpose}",
            actual=f"paro-trt {__version__}, where it is not in this release",
            remedy="doctor, calibrate, inspect, report, export, verify, run and bench work today",
        )

    return refuse
