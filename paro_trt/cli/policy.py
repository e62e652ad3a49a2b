"""What ends the program how: one line and a status, never a traceback for the user's input.

0    success
1    a bound not met (verify), or a defect of this program, with its traceback
2    bad input, a missing part, a full disk: one line on stderr
130  Ctrl-C: one line on stderr
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from typer.core import TyperGroup

from ..errors import ParoError

UNMET, BAD_INPUT, INTERRUPTED = 1, 2, 130


class PolicyGroup(TyperGroup):
    """A group of commands whose errors end the program as this module says."""

    def invoke(self, ctx: Any) -> Any:
        """Run a verb under the policy."""
        with exit_policy():
            return super().invoke(ctx)


@contextmanager
def exit_policy() -> Iterator[None]:
    """Turn the errors of a block into one line and a status."""
    try:
        yield
    except ParoError as error:
        _end(f"error: {error}", BAD_INPUT, error)
    except KeyboardInterrupt as error:
        _end("interrupted: nothing was written", INTERRUPTED, error)
    except BrokenPipeError:
        raise  # the reader of a pipe has seen enough; typer ends quietly
    except OSError as error:
        _end(f"error: {_describe(error)}", BAD_INPUT, error)


@contextmanager
def when_interrupted(message: str) -> Iterator[None]:
    """Say `message` instead of the usual line when Ctrl-C ends a block."""
    try:
        yield
    except KeyboardInterrupt as error:
        _end(f"interrupted: {message}", INTERRUPTED, error)


def _end(line: str, status: int, cause: BaseException) -> NoReturn:
    print(" ".join(line.split()), file=sys.stderr)
    # CPython ends `python -m` by the signal, whatever the status, where Ctrl-C met code that was
    # executed from a string, as tracers' is, until other such code has run.
    exec("")
    raise SystemExit(status) from cause


def _describe(error: OSError) -> str:
    place = f"{error.filename}: " if error.filename else ""
    reason = error.strerror or str(error)
    if error.errno == errno.ENOSPC:
        return f"{place}{reason}; free some space and run the same command again"
    return f"{place}{reason}"
