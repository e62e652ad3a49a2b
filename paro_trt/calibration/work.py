"""The unfinished work of a calibration on disk: an interrupted run resumes, and several processes
share it.

A state is a named set of arrays to which captures contribute. Each prompt's contributions are in
a file of their own, written only by the process that holds the prompt's lock, and each write
replaces that file together with the list of the captures in it. `fold` joins the files of finished
prompts, always in the order of the prompts, so that the sums do not depend on who computed what.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..errors import ArgumentError
from ..files import TEMPORARY, atomic_write

_Read = TypeVar("_Read")

_FINGERPRINT_NAME = "fingerprint.json"
_CAPTURES_KEY = "captures"
_SUM, _MAXIMUM = "sum.", "maximum."
"""Begin the names of arrays in a file, by how they combine."""


class Contribution(NamedTuple):
    """What one capture adds to a state: arrays to sum up and arrays to take the maximum of."""

    sums: Mapping[str, NDArray[Any]]
    maxima: Mapping[str, NDArray[Any]] = {}


class WorkDirectory:
    """States of one calibration in the directory `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, fingerprint: Mapping[str, Any]) -> bool:
        """Begin, or resume the same calibration; whether there was work to resume.

        Args:
            fingerprint: JSON-ready facts that decide the result, such as settings and model.

        Raises:
            ArgumentError: the directory holds the work of another calibration.
        """
        identity = json.dumps(fingerprint, sort_keys=True, indent=1)
        marker = self.path / _FINGERPRINT_NAME
        resumed = marker.exists()
        if not resumed:
            self._require_empty()
            self.path.mkdir(parents=True, exist_ok=True)
            with atomic_write(marker) as file:
                file.write(identity.encode())
        # Another process may have begun at the same moment, with other settings.
        self._require_same(fingerprint, marker)
        return resumed

    @property
    def exists(self) -> bool:
        """Whether there is unfinished work."""
        return (self.path / _FINGERPRINT_NAME).exists()

    def remove(self) -> None:
        """Delete all states. Harmless when repeated."""
        shutil.rmtree(self.path, ignore_errors=True)

    def call_file(self, prompt: int, step: int) -> Path:
        """Where the recorded call of one capture is kept."""
        return self.path / f"call-prompt{prompt}-step{step}.pt"

    def run_directory(self, prompt: int) -> Path:
        """Where an unfinished dense run keeps what it has computed."""
        return self.path / f"run-prompt{prompt}"

    @contextmanager
    def lock(self, name: str, *, wait: bool = False) -> Iterator[bool]:
        """Hold a named lock of the directory; whether it was free.

        The operating system gives it back when the process ends, however it ends.

        Args:
            name: such as "prompt0".
            wait: until it is free.
        """
        lock = FileLock(self.path / f"{name}.lock", timeout=-1 if wait else 0)
        try:
            lock.acquire()
        except Timeout:
            yield False
            return
        try:
            self._owner_file(name).write_text(f"process {os.getpid()} on {socket.gethostname()}")
            yield True
        finally:
            self._owner_file(name).unlink(missing_ok=True)
            lock.release()

    def owner(self, name: str) -> str:
        """Who holds a lock, for messages."""
        try:
            return self._owner_file(name).read_text()
        except OSError:
            return "another process"

    def captures(self, state: str) -> frozenset[str]:
        """The captures already in a state."""
        return frozenset().union(*_reading(lambda: [*map(_captures_in, self._files(state))]))

    def arrays(self, state: str) -> dict[str, NDArray[Any]]:
        """The arrays of a state, none if no capture has contributed."""
        whole: dict[str, NDArray[Any]] = {}
        done: frozenset[str] = frozenset()
        for stored in _reading(lambda: [*map(_State.read, self._files(state))]):
            # A process may have ended between joining a prompt's file and deleting it.
            if not stored.captures <= done:
                whole = _combined(whole, Contribution(stored.sums, stored.maxima))
                done |= stored.captures
        return whole

    def add(self, state: str, prompt: int, capture: str, contribution: Contribution) -> None:
        """Add a capture's contribution to a state; a capture already in it changes nothing.

        Needs the lock of the prompt where other processes may be at work.
        """
        if capture in self.captures(state):
            return
        path = self._file(state, prompt)
        stored = _State.read(path) if path.exists() else _State({}, {}, frozenset())
        sums = _combined(stored.sums, Contribution(contribution.sums))
        maxima = _combined(stored.maxima, Contribution({}, contribution.maxima))
        _State(sums, maxima, stored.captures | {capture}).write(path)

    def fold(self, state: str, prompts: Sequence[Collection[str]]) -> None:
        """Join the files of the first prompts that are complete, so that one file is left of them.

        Args:
            state: whose files.
            prompts: the captures of each prompt, in the order of the prompts; a prompt is complete
                when all of its captures are in the state.
        """
        with self.lock(f"fold-{state}") as mine:
            if not mine:
                return
            base = self._file(state)
            whole = _State.read(base) if base.exists() else _State({}, {}, frozenset())
            joined = []
            for prompt, captures in enumerate(prompts):
                path = self._file(state, prompt)
                if set(captures) <= whole.captures:
                    joined.append(path)
                    continue
                if not path.exists() or not set(captures) <= (part := _State.read(path)).captures:
                    break
                whole = _State(
                    _combined(whole.sums, Contribution(part.sums)),
                    _combined(whole.maxima, Contribution({}, part.maxima)),
                    whole.captures | part.captures,
                )
                joined.append(path)
            if any(path.exists() for path in joined):
                whole.write(base)
            for path in joined:
                path.unlink(missing_ok=True)

    def _file(self, state: str, prompt: int | None = None) -> Path:
        suffix = "" if prompt is None else f"@prompt{prompt:05d}"
        return self.path / f"{state}{suffix}.safetensors"

    def _files(self, state: str) -> list[Path]:
        """The joined file, then those of single prompts in their order."""
        base = self._file(state)
        parts = sorted(self.path.glob(f"{state}@prompt*.safetensors"))
        return [*([base] if base.exists() else []), *parts]

    def _require_empty(self) -> None:
        """Raise ArgumentError if the directory holds what is none of ours."""
        entries = self.path.iterdir() if self.path.exists() else iter(())
        if any(not entry.name.startswith(TEMPORARY) for entry in entries):
            if (self.path / _FINGERPRINT_NAME).exists():
                return
            raise ArgumentError(
                str(self.path),
                expected="the unfinished work of this calibration",
                actual="a directory of something else",
                remedy="move it away, or choose another output file",
            )

    def _owner_file(self, name: str) -> Path:
        return self.path / f"{name}.owner"

    def _require_same(self, fingerprint: Mapping[str, Any], marker: Path) -> None:
        try:
            stored = json.loads(marker.read_bytes())
        except ValueError:
            stored = None
        wanted = json.loads(json.dumps(fingerprint))
        if stored == wanted:
            return
        entries = stored if isinstance(stored, dict) else {}
        different = sorted(key for key in wanted if entries.get(key) != wanted[key])
        raise ArgumentError(
            str(self.path),
            expected="the unfinished work of this calibration",
            actual=f"that of another; {', '.join(different) or 'more facts'} differ",
            remedy="repeat with what it was begun with, delete it, or choose another output file",
        )


class _State(NamedTuple):
    """A file of a state: arrays that are summed up, arrays of maxima, and the captures in it."""

    sums: Mapping[str, NDArray[Any]]
    maxima: Mapping[str, NDArray[Any]]
    captures: frozenset[str]

    @classmethod
    def read(cls, path: Path) -> _State:
        with _opened(path) as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        sums = {n.removeprefix(_SUM): a for n, a in arrays.items() if n.startswith(_SUM)}
        maxima = {n.removeprefix(_MAXIMUM): a for n, a in arrays.items() if n.startswith(_MAXIMUM)}
        return cls(sums, maxima, _captures_in(path))

    def write(self, path: Path) -> None:
        named = {_SUM + name: array for name, array in self.sums.items()}
        named |= {_MAXIMUM + name: array for name, array in self.maxima.items()}
        contiguous = {name: np.ascontiguousarray(array) for name, array in named.items()}
        content = save(contiguous, metadata={_CAPTURES_KEY: json.dumps(sorted(self.captures))})
        with atomic_write(path) as file:
            file.write(content)


def _reading(read: Callable[[], list[_Read]]) -> list[_Read]:
    """The result of `read`, which starts again where another process has just joined files."""
    while True:
        try:
            return read()
        except FileNotFoundError:
            continue


def _combined(
    arrays: Mapping[str, NDArray[Any]], contribution: Contribution
) -> dict[str, NDArray[Any]]:
    combined = dict(arrays)
    for combine, parts in ((np.add, contribution.sums), (np.maximum, contribution.maxima)):
        for name, part in parts.items():
            combined[name] = combine(combined[name], part) if name in combined else part
    return combined


def _captures_in(path: Path) -> frozenset[str]:
    with _opened(path) as file:
        return frozenset(json.loads((file.metadata() or {}).get(_CAPTURES_KEY, "[]")))


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="np")
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError) as error:
        raise ArgumentError(
            str(path),
            expected="unfinished calibration work",
            actual=str(error).splitlines()[0][:200],
            remedy="delete its directory and start again",
        ) from error
