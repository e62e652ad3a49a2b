"""How far a calibration is, for whoever wants to show it; the library prints nothing itself."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol


class Progress(Protocol):
    """Receives the state of a calibration. An exception raised here interrupts it."""

    def start(self, stage: str, total: int, done: int) -> None:
        """A stage of `total` units begins, `done` of which an earlier run has finished."""

    def advance(self) -> None:
        """One unit of the current stage is finished and stored."""

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


class RichProgress:
    """A terminal bar for each stage, with the time left; a context manager."""

    def __init__(self) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bars

        self._bars = Bars(
            TextColumn("{task.description:<28}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self._task = self._bars.add_task("", visible=False)

    def __enter__(self) -> RichProgress:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def start(self, stage: str, total: int, done: int) -> None:
        """Begin the bar of a stage."""
        self._task = self._bars.add_task(stage, total=total, completed=done)

    def advance(self) -> None:
        """Move the bar by one unit."""
        self._bars.advance(self._task)

    def note(self, message: str) -> None:
        """Print a line above the bars."""
        self._bars.console.print(message, highlight=False, markup=False)
