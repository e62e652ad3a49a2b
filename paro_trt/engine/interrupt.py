"""Ctrl-C ends a build at its next step, whichever thread TensorRT reports steps from."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from .progress import BuildProgress


class StoppableProgress:
    """Progress that ends the build at the next step once Ctrl-C was pressed.

    Args:
        progress: what is told; None is silent.
    """

    def __init__(self, progress: BuildProgress | None) -> None:
        self._progress = progress
        self._stopped = threading.Event()
        self._signals: socket.socket | None = None

    @property
    def stopped(self) -> bool:
        """Whether Ctrl-C was pressed. May be asked from any thread."""
        if self._signals is not None and not self._stopped.is_set():
            try:
                if signal.SIGINT in self._signals.recv(64):
                    self._stopped.set()
            except BlockingIOError:
                pass
        return self._stopped.is_set()

    def phase_started(self, phase: str, parent: str | None, steps: int) -> None:
        """Forwarded."""
        if self._progress is not None:
            self._progress.phase_started(phase, parent, steps)

    def step_done(self, phase: str, step: int) -> bool:
        """Forwarded; False, which stops the build, once Ctrl-C was pressed."""
        wanted = self._progress is None or self._progress.step_done(phase, step)
        return wanted and not self.stopped

    def phase_finished(self, phase: str) -> None:
        """Forwarded."""
        if self._progress is not None:
            self._progress.phase_finished(phase)

    @contextmanager
    def catching(self) -> Iterator[None]:
        """Turn Ctrl-C into the end of the build; KeyboardInterrupt follows once it has ended.

        No exception can pass through TensorRT, and Python runs a signal's handler in the main
        thread alone, which waits in TensorRT for as long as the build takes. What is seen at once
        by other threads is the byte that the interpreter writes when the signal arrives.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        signals, written = socket.socketpair()

        def stop(_number: int, _frame: FrameType | None) -> None:
            self._stopped.set()

        with signals, written:
            signals.setblocking(False)
            written.setblocking(False)
            before = signal.signal(signal.SIGINT, stop)
            waker = signal.set_wakeup_fd(written.fileno(), warn_on_full_buffer=False)
            self._signals = signals
            try:
                yield
            finally:
                signal.set_wakeup_fd(waker)
                signal.signal(signal.SIGINT, before)
                stopped, self._signals = self.stopped, None
            if stopped:
                raise KeyboardInterrupt
