"""What goes wrong inside a pipeline's own call, as one error that names the pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import ArgumentError, ParoError
from .contents import first_line


@contextmanager
def refused_arguments(pipe: Any) -> Iterator[None]:
    """Within the context a call of the pipeline raises ArgumentError where it refuses a value."""
    try:
        yield
    except ParoError:
        raise  # ours are ValueErrors, too
    except ValueError as error:
        raise ArgumentError(
            type(pipe).__name__,
            expected="arguments that the pipeline takes",
            actual=first_line(error),
        ) from error
