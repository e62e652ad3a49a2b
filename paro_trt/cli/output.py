"""Where output goes: results to stdout, progress and remarks to stderr.

Every console is made here. None of them reads markup or emoji codes in what it prints, since that
holds file names, prompts and messages of others; styles are given as arguments or as `Text`.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

PIPE_WIDTH = 110
"""Columns of a table that goes to a file or a pipe, which have no width of their own."""

JsonOption: TypeAlias = Annotated[
    bool, typer.Option("--json", help="One JSON document on stdout, and nothing else there.")
]


def results() -> Console:
    """The console for results."""
    from rich.console import Console

    terminal = sys.stdout is not None and sys.stdout.isatty()
    known = terminal or "COLUMNS" in os.environ
    return Console(width=None if known else PIPE_WIDTH, highlight=False, markup=False, emoji=False)


def remarks() -> Console:
    """The console for progress and remarks."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False, emoji=False)


@contextmanager
def status(text: str) -> Iterator[Callable[[str], None]]:
    """Say on a terminal's stderr what goes on; yields a function that says something else."""
    from rich.text import Text

    console = remarks()
    spinner = "line" if console.options.ascii_only else "dots"
    with console.status(Text(text), spinner=spinner) as shown:
        yield lambda other: shown.update(Text(other))


def print_json(document: Mapping[str, Any]) -> None:
    """Write one JSON document to stdout."""
    typer.echo(json.dumps(document, indent=2, allow_nan=False))


WIDEST_NAME = 44
"""Columns of a fact's name; a longer one takes several lines."""

NEXT = "next"
"""Name of the fact that says what to do next."""


def print_facts(title: str, facts: Mapping[str, object]) -> None:
    """Write names and values below a title.

    What `NEXT` names, mostly a `command_line`, comes last, as one line whatever the width, so that
    it can be pasted into a shell.
    """
    from rich.table import Table
    from rich.text import Text

    shown = Table(show_header=False, box=None, padding=(0, 2))
    longest = min(WIDEST_NAME, max(map(len, facts), default=0))
    shown.add_column(style="cyan", min_width=longest, max_width=longest)
    shown.add_column(overflow="fold")
    for name, value in facts.items():
        if name != NEXT:
            shown.add_row(name, Text(str(value)))
    console = results()
    console.print(Text(title, style="italic"), soft_wrap=True)
    console.print(shown)
    if NEXT in facts:
        console.print(Text.assemble((f"  {NEXT}: ", "cyan"), str(facts[NEXT])), soft_wrap=True)


def command_line(*words: object) -> str:
    """A command of this program as one line that a shell reads back word by word."""
    return shlex.join(("paro-trt", *map(str, words)))


def table(
    title: str, *columns: str, right: tuple[str, ...] = (), whole: tuple[str, ...] = ()
) -> Table:
    """An empty table; columns named in `right` are aligned to the right, those in `whole` are as
    wide as what they hold."""
    from rich import box
    from rich.table import Table

    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for column in columns:
        justify: Literal["left", "right"] = "right" if column in right else "left"
        made.add_column(column, justify=justify, no_wrap=column in whole)
    return made


def file_size(size: int) -> str:
    """Bytes for people."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size} B"
