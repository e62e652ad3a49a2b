"""What ends the program how: one line and a status, never a traceback for the user's input.

0    success
1    a bound not met (verify), or a defect of this program, with its traceback
2    bad input, a missing part, a full disk: one line on stderr
130  Ctrl-C: one line on stderr
"""

from __future__ import annotations

import errno
import functools
import re
import shutil
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from ..errors import ParoError
from .paths import expand_home
from .streams import prepare_streams

UNMET, BAD_INPUT, INTERRUPTED = 1, 2, 130

HELP_OPTIONS = ("-h", "--help")

NARROW = 60
"""Columns below which help has no room for two columns of text."""

_NAMES = 28
"""Widest column of options' names; what is wider has a line of its own."""

_LEAST = 20
"""Columns that help is made for at least."""

_UNDECODED = re.compile("[\ud800-\udfff]")
"""What Python makes of a byte in a file name that is not text."""


class _Help:
    """Help in the width of the terminal, with every option's name whole."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help; in a narrow terminal explanations are below names, not next to them."""
        formatter.width = min(formatter.width, max(_LEAST, shutil.get_terminal_size().columns - 2))
        formatter.write_dl = functools.partial(_write_definitions, formatter)
        super().format_help(ctx, formatter)  # type: ignore[misc]


def _write_definitions(formatter: Any, rows: Iterable[tuple[str, str]]) -> None:
    rows, indent = list(rows), formatter.current_indent
    widest = max(len(name) for name, _ in rows)
    column = indent + (2 if formatter.width < NARROW else min(widest, _NAMES) + 2)
    for name, text in rows:
        # The wrapper of the command line's library parts --option-names at their hyphens.
        lines = textwrap.wrap(
            text,
            max(_LEAST // 2, formatter.width - column),
            break_on_hyphens=False,
            break_long_words=False,
        )
        begin = " " * indent + name
        if len(begin) + 2 <= column and lines:
            begin = begin.ljust(column) + lines.pop(0)
        formatter.write("\n".join([begin, *(" " * column + line for line in lines)]) + "\n")


class PolicyCommand(_Help, TyperCommand):
    """A verb: `~` is the home directory in paths, and errors name options as they are typed."""

    def invoke(self, ctx: Any) -> Any:
        """Run the verb."""
        ctx.params = {name: _at_home(value) for name, value in ctx.params.items()}
        try:
            return super().invoke(ctx)
        except ParoError as error:
            typed = _as_typed(error.subject, self.params)
            if typed == error.subject:
                raise
            raise ParoError(
                typed, expected=error.expected, actual=error.actual, remedy=error.remedy
            ) from error


class PolicyGroup(_Help, TyperGroup):
    """A group of commands whose errors end the program as this module says."""

    def invoke(self, ctx: Any) -> Any:
        """Run a verb under the policy."""
        with exit_policy():
            return super().invoke(ctx)


def _at_home(value: Any) -> Any:
    """A path, or each of several, whose `~` the shell left alone, as in `--plan=~/a`."""
    if isinstance(value, list | tuple):
        return [_at_home(entry) for entry in value]
    return value.__class__(expand_home(str(value))) if isinstance(value, Path) else value


def _as_typed(subject: str, params: Iterable[Any]) -> str:
    """The subject of an error of the Python API, with arguments' names replaced by options."""
    options = {
        option[2:].replace("-", "_"): option
        for parameter in params
        for option in parameter.opts
        if option.startswith("--")
    }
    return ", ".join(options.get(part, part) for part in subject.split(", "))


@contextmanager
def exit_policy() -> Iterator[None]:
    """Turn the errors of a block into one line and a status."""
    try:
        yield
    except ParoError as error:
        _end(f"error: {error}", BAD_INPUT, error)
    except KeyboardInterrupt as error:
        _end("interrupted: nothing was written", INTERRUPTED, error)
    except OSError as error:
        _end(f"error: {_describe(error)}", BAD_INPUT, error)
    except UnicodeEncodeError as error:
        if not _UNDECODED.search(error.object):
            raise
        _end(f"error: {_of_undecoded_name(error)}", BAD_INPUT, error)


def run_program(program: Callable[[], object]) -> None:
    """Run a command line as the process: its streams, its errors and its exit status."""
    prepare_streams()
    warnings.showwarning = _show_warning
    with exit_policy():
        try:
            program()
        finally:
            # At exit a full disk would be a traceback and a status of Python's own.
            if sys.stdout is not None:
                sys.stdout.flush()


def run_script(function: Callable[..., None]) -> None:
    """Run a function with typer's annotations as the process, under the policy of the verbs."""
    program = typer.Typer(
        add_completion=False,
        context_settings={"help_option_names": list(HELP_OPTIONS)},
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    program.command(cls=PolicyCommand)(function)
    run_program(program)


@contextmanager
def when_interrupted(message: str) -> Iterator[None]:
    """Say `message` instead of the usual line when Ctrl-C ends a block."""
    try:
        yield
    except KeyboardInterrupt as error:
        _end(f"interrupted: {message}", INTERRUPTED, error)


def end_unmet(error: ParoError) -> NoReturn:
    """End the program with one line and the status of a bound that is not met."""
    _end(f"error: {error}", UNMET, error)


def _show_warning(message: Warning | str, *_place: Any, **_more: Any) -> None:
    """A line in place of Python's two, which show code that the user did not write."""
    _print_line(f"warning: {message}")


def _print_line(text: str) -> None:
    """One line on stderr, where it takes one; the exit status says enough without it."""
    if sys.stderr is not None:
        with suppress(OSError):
            print(" ".join(text.split()), file=sys.stderr)


def _of_undecoded_name(error: UnicodeEncodeError) -> ParoError:
    return ParoError(
        error.object[:200],
        expected="a name in the encoding of the file system, which other libraries can open",
        actual="bytes that are no text",
        remedy="rename the file or the directory",
    )


def _end(line: str, status: int, cause: BaseException) -> NoReturn:
    _print_line(line)
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
