"""The unfinished work of a calibration on disk, so that an interrupted run resumes.

A state is a named set of arrays to which captures contribute one after the other. Each write
replaces the whole state, together with the list of the captures in it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..errors import ArgumentError
from ..files import atomic_write

_FINGERPRINT_NAME = "fingerprint.json"
_CAPTURES_KEY = "units"  # the word on disk


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
        if marker.exists():
            self._require_same(fingerprint, marker)
            return True
        if self.path.exists() and any(self.path.iterdir()):
            raise ArgumentError(
                str(self.path),
                expected="the unfinished work of this calibration",
                actual="a directory of something else",
                remedy="move it away, or choose another output file",
            )
        self.path.mkdir(parents=True, exist_ok=True)
        with atomic_write(marker) as file:
            file.write(identity.encode())
        return False

    def remove(self) -> None:
        """Delete all states."""
        shutil.rmtree(self.path)

    def captures(self, state: str) -> frozenset[str]:
        """The captures already in a state."""
        path = self._file(state)
        if not path.exists():
            return frozenset()
        with _opened(path) as file:
            return frozenset(json.loads(file.metadata()[_CAPTURES_KEY]))

    def arrays(self, state: str) -> dict[str, NDArray[Any]]:
        """The arrays of a state, none if no capture has contributed."""
        path = self._file(state)
        if not path.exists():
            return {}
        with _opened(path) as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

    def add(self, state: str, capture: str, contribution: Contribution) -> None:
        """Add a capture's contribution to a state; a capture already in it changes nothing."""
        captures = self.captures(state)
        if capture in captures:
            return
        arrays = self.arrays(state)
        for combine, parts in ((np.add, contribution.sums), (np.maximum, contribution.maxima)):
            for name, part in parts.items():
                arrays[name] = combine(arrays[name], part) if name in arrays else part
        contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        content = save(
            contiguous, metadata={_CAPTURES_KEY: json.dumps(sorted(captures | {capture}))}
        )
        with atomic_write(self._file(state)) as file:
            file.write(content)

    def _file(self, state: str) -> Path:
        return self.path / f"{state}.safetensors"

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


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="np")
    except (SafetensorError, OSError) as error:
        raise ArgumentError(
            str(path),
            expected="unfinished calibration work",
            actual=str(error).splitlines()[0][:200],
            remedy="delete its directory and start again",
        ) from error
