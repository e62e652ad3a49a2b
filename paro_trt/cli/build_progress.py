"""A build's phases as bars on stderr."""

from __future__ import annotations

from types import TracebackType

from . import output


class BuildBars:
    """A bar for each running phase. A `paro_trt.engine.progress.BuildProgress`."""

    def __init__(self) -> None:
        from rich import progress

        self._bars = progress.Progress(
            progress.TextColumn("{task.description:<40.40}", markup=False),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            console=output.remarks(),
            transient=True,
        )
        self._tasks: dict[str, progress.TaskID] = {}
        self._depths: dict[str, int] = {}

    def __enter__(self) -> BuildBars:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def phase_started(self, phase: str, parent: str | None, steps: int) -> None:
        """Add the bar of a phase, below and right of its parent's."""
        self._depths[phase] = depth = self._depths.get(parent or "", -1) + 1
        self._tasks[phase] = self._bars.add_task("  " * depth + phase, total=steps)

    def step_done(self, phase: str, step: int) -> bool:
        """Move a bar; the build goes on."""
        if phase in self._tasks:
            self._bars.update(self._tasks[phase], completed=step + 1)
        return True

    def phase_finished(self, phase: str) -> None:
        """Remove the bar of a phase; outermost ones stay."""
        task = self._tasks.pop(phase, None)
        if task is not None and self._depths.get(phase):
            self._bars.remove_task(task)
