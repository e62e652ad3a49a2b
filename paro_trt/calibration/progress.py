"""How far a calibration is, for whoever wants to show it; the library prints nothing itself."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives the state of a calibration. An exception raised here interrupts it."""

    def start(self, stage: str, total: int, done: int) -> None:
        """A stage of `total` runs or captures begins; `done` of them are finished already."""

    def advance(self) -> None:
        """One run or capture of the current stage is finished and stored."""

    def note(self, message: str) -> None:
        """Something a person should know."""


class SilentProgress:
    """Shows nothing."""

    def start(self, stage: str, total: int, done: int) -> None:
        """Ignore."""

    def advance(self) -> None:
        """Ignore."""

    def note(self, message: str) -> None:
        """Ignore."""
