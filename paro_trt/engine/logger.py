"""Keeps TensorRT's log messages, so that an error can quote them."""

from __future__ import annotations

import ctypes
import logging
from typing import Any

from ..errors import BackendUnavailableError

LOG = logging.getLogger("paro_trt.tensorrt")
"""Everything that TensorRT logs; a record's `severity` is TensorRT's own, such as "WARNING"."""

KEPT = 4


class LogKeeper:
    """Keeps the first errors that TensorRT logs, since later ones only follow from the first."""

    def __init__(self) -> None:
        self._errors: list[str] = []
        self.totals: list[str] = []
        """Lines such as "Total Weights Memory: 971072 bytes"."""

    def add_error(self, message: str) -> None:
        """Keep an error."""
        if len(self._errors) < KEPT:
            self._errors.append(" ".join(message.split())[:300])

    def check_start(self, product: str, made: Any) -> None:
        """Raise BackendUnavailableError if an error was logged, because TensorRT did not start.

        In this case TensorRT's bindings return an object around a null pointer. Using or destroying
        it ends the process [lean 10.16 and 11.4 without a GPU, 2026-11-24], so `made` is never
        freed.
        """
        if self._errors:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(made))
            raise BackendUnavailableError(
                product,
                expected="to start, which takes a GPU and a driver for its CUDA",
                actual=self.explain(""),
                remedy="nvidia-smi says what the machine has; install or update its driver",
            )

    def explain(self, otherwise: str) -> str:
        """TensorRT's messages in one line, or `otherwise` if there are none."""
        return "; ".join(self._errors) or otherwise


def make_logger(trt: Any, keeper: LogKeeper) -> Any:
    """An ILogger that keeps errors and passes everything on to Python's logging.

    Args:
        trt: TensorRT's Python module.
        keeper: receives the errors.
    """
    severity = trt.ILogger.Severity
    levels = {
        severity.INTERNAL_ERROR: logging.CRITICAL,
        severity.ERROR: logging.ERROR,
        severity.WARNING: logging.WARNING,
        severity.INFO: logging.INFO,
        severity.VERBOSE: logging.DEBUG,
    }

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            level = levels.get(severity, logging.INFO)
            if level >= logging.ERROR:
                keeper.add_error(msg)
            elif msg.startswith("Total "):
                keeper.totals.append(msg)
            # Errors are reported once, by the exception that they cause.
            name = getattr(severity, "name", str(severity))
            LOG.log(min(level, logging.INFO), "%s", msg, extra={"severity": name})

    return Logger()
