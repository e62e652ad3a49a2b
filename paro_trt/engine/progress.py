"""The phases of a build as TensorRT reports them, for a progress bar."""

from __future__ import annotations

from typing import Any, Protocol


class BuildProgress(Protocol):
    """Receives the progress of a build. Phases nest. TensorRT calls it from its own threads."""

    def phase_started(self, phase: str, parent: str | None, steps: int) -> None:
        """A phase of `steps` steps begins, within `parent` if there is one."""

    def step_done(self, phase: str, step: int) -> bool:
        """Step number `step` (from 0) is done. Return False to stop the build."""

    def phase_finished(self, phase: str) -> None:
        """A phase ended, whether or not all of its steps were done."""


def make_monitor(trt: Any, progress: BuildProgress) -> Any:
    """An IProgressMonitor that forwards to `progress`.

    Args:
        trt: TensorRT's Python module.
        progress: receives the phases and steps.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            progress.phase_started(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return progress.step_done(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            progress.phase_finished(phase_name)

    return Monitor()
