"""A step of the suite: commands under a time limit, judged by what they say."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

SECONDS = "{seconds}"
"""Within a command's words: the time it has."""

MARGIN_SECONDS = 15
"""Of such a command's limit, for its start and its end."""

TAIL_LINES = 15


@dataclass(frozen=True)
class Command:
    """One program's run.

    says: pattern that its output must match. fails: whether it must not, or may not, end with
    status 0, as where a fault is planted. output: file that gets its standard output.
    """

    words: tuple[str, ...]
    says: str = ""
    fails: bool = False
    output: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    def shown(self) -> str:
        """As one would type it."""
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        return " ".join(
            [*variables, *self.words, *([">", str(self.output)] if self.output else [])]
        )


@dataclass(frozen=True)
class Step:
    """Commands one after the other, or `together`; together they may take `limit` seconds.

    needed: whether the suite ends where this step fails.
    """

    name: str
    limit: float
    commands: tuple[Command, ...]
    together: bool = False
    needed: bool = False


@dataclass(frozen=True)
class Result:
    """How a step ended: "ok", "failed", "cut" at its limit, or "skipped"."""

    name: str
    status: str
    seconds: float
    detail: str = ""

    def line(self) -> str:
        """For the table."""
        return f"| {self.name} | {self.status} | {self.seconds:.0f} s | {self.detail} |"


def run_step(step: Step, root: Path, limit: float, log: Path) -> Result:
    """Run a step's commands in `root`; all they say goes to the end of `log`."""
    start = time.monotonic()
    groups = [step.commands] if step.together else [(command,) for command in step.commands]
    for group in groups:
        left = start + limit - time.monotonic()
        failure = _run_together(group, root, left, log)
        if failure:
            status, detail = failure
            return Result(step.name, status, time.monotonic() - start, detail)
    return Result(step.name, "ok", time.monotonic() - start)


def _run_together(
    commands: Sequence[Command], root: Path, limit: float, log: Path
) -> tuple[str, str] | None:
    """Status and detail of the first command that went wrong."""
    deadline = time.monotonic() + max(0.0, limit)
    running = [(command, _start(command, root, limit)) for command in commands]
    failures = []
    for command, (process, said) in running:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
            failure = None
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            failure = ("cut", f"after {limit:.0f} s: {command.words[0]}")
        said.seek(0)
        text = said.read().decode(errors="replace")
        said.close()
        failure = failure or _judge(command, process.returncode, text)
        if command.output is not None:
            text += command.output.read_text(encoding="utf-8", errors="replace")
        with log.open("a", encoding="utf-8") as file:
            file.write(f"$ {command.shown()}\n{text}\n[status {process.returncode}]\n\n")
        if failure:
            failures.append(failure)
            print("\n".join(text.splitlines()[-TAIL_LINES:]), flush=True)
    return failures[0] if failures else None


def _start(command: Command, root: Path, limit: float) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    said = tempfile.TemporaryFile()  # noqa: SIM115 (closed by who reads it)
    seconds = f"{max(0.0, limit - MARGIN_SECONDS):.0f}"
    words = [word.replace(SECONDS, seconds) for word in command.words]
    environment = {**os.environ, **command.environment}
    output = said if command.output is None else command.output.open("wb")
    try:
        # A session of its own: at the limit whatever it started ends with it.
        process = subprocess.Popen(
            words, cwd=root, env=environment, stdout=output, stderr=said, start_new_session=True
        )
    finally:
        if output is not said:
            output.close()
    return process, said


def _judge(command: Command, status: int, text: str) -> tuple[str, str] | None:
    name = Path(command.words[0]).name
    if status != 0 and not command.fails:
        return "failed", f"{name}: status {status}"
    if command.says and not re.search(command.says, text):
        return "failed", f"{name}: expected it to say '{command.says}'"
    return None
