"""Bars on stderr for verbs that take longer than a breath."""

from __future__ import annotations

from types import TracebackType

from . import output


class StageBars:
    """A bar for each stage, with the time left. A `paro_trt.calibration.progress.Progress`."""

    def __init__(self) -> None:
        from rich import progress

        self._bars = progress.Progress(
            progress.TextColumn("{task.description:<16}", markup=False),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            progress.TextColumn("left"),
            progress.TimeRemainingColumn(),
            console=output.remarks(),
        )
        self._task: progress.TaskID | None = None

    def __enter__(self) -> StageBars:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def start(self, stage: str, total: int, done: int = 0) -> None:
        """Begin the bar of a stage of `total` units, `done` of which are finished already."""
        self._task = self._bars.add_task(stage, total=total, completed=done)

    def advance(self) -> None:
        """Move the bar by one unit."""
        if self._task is not None:
            self._bars.advance(self._task)

    def note(self, message: str) -> None:
        """Print a line above the bars."""
        self._bars.console.print(message, soft_wrap=True)
