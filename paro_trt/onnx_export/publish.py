"""Saves a model, with or without external data. Either all its files appear or none."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import ParoError

DATA_SUFFIX = ".data"
"""The suffix that a model's file name gets for its external data."""


@contextmanager
def staging_directory(path: Path) -> Iterator[Path]:
    """A temporary directory next to `path`, on the same file system; it is removed afterwards.

    Raises:
        ParoError: the directory of `path` is missing or cannot be written, or the disk is full.
    """
    staging = path.parent / f".paro-{secrets.token_hex(8)}.tmp"
    try:
        staging.mkdir()
        yield staging
    except OSError as error:
        raise ParoError(
            str(path),
            expected="a file that can be written",
            actual=error.strerror or str(error),
            remedy="check the directory, its permissions and free space; nothing was changed",
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def save(model: Any, path: Path, *, external_data: bool) -> None:
    """Write an IR model to `path` and, if asked, its weights to `path` + DATA_SUFFIX.

    Raises:
        ParoError: a weight that is read from a checkpoint now cannot be read.
    """
    import onnx_ir

    try:
        onnx_ir.save(model, path, external_data=path.name + DATA_SUFFIX if external_data else None)
    except onnx_ir.serde.SerdeError as error:
        # onnx_ir says where it was, several times over; what a reading of ours said is the cause.
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, (ParoError, OSError)):
            cause = cause.__cause__
        raise cause or error from None


def publish(staging: Path, directory: Path) -> None:
    """Move saved models to their place. Data goes first, so that no model ever lacks its data."""
    for file in sorted(staging.iterdir(), key=lambda file: file.suffix != DATA_SUFFIX):
        file.replace(directory / file.name)
