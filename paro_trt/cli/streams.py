"""stdout and stderr of the program: no character and no reader of theirs can end a verb."""

from __future__ import annotations

import io
import os
import sys
from typing import Any, TextIO


class _PatientFile(io.FileIO):
    """A file that fails at most once.

    What is written after its reader has gone, as in `paro-trt ... | head`, is dropped: the verb
    finishes its work and ends with its own exit status. Another error, such as of a full disk, is
    raised once; Python's own flush at exit then succeeds.
    """

    def write(self, data: Any) -> int:
        """Write, or drop, the bytes of `data`; their number."""
        try:
            return super().write(data)
        except OSError as error:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            if not isinstance(error, BrokenPipeError):
                raise
            return super().write(data)


def prepare_streams() -> None:
    """Replace stdout and stderr by streams that encode any text and outlive their readers.

    A character that the encoding lacks, and a byte of a file name that is not text, are written as
    a backslash and their number.
    """
    sys.stdout = _patient(sys.stdout)
    sys.stderr = _patient(sys.stderr)


def _patient(stream: TextIO) -> TextIO:
    # None where the descriptor is closed; without a descriptor in tests and notebooks; without a
    # buffer under PYTHONUNBUFFERED.
    if not isinstance(stream, io.TextIOWrapper) or not isinstance(
        stream.buffer, io.BufferedWriter | io.FileIO
    ):
        return stream
    stream.flush()
    file = _PatientFile(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(file),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering or stream.write_through,
    )
