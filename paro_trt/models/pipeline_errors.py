"""What a pipeline's own call says: its refusals as our errors, without what is never true."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import ArgumentError, ParoError
from .contents import first_line

_NEVER_TRUE = "has to be divisible by 1."
"""Wan's pipelines warn so of every number of frames where the VAE does not compress time."""


@contextmanager
def pipeline_call(pipe: Any) -> Iterator[None]:
    """Within the context a call of the pipeline raises ArgumentError where it refuses a value.

    Its warning about the number of frames is dropped where it is wrong.
    """
    logger = logging.getLogger(type(pipe).__module__)
    logger.addFilter(_is_true)
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
    finally:
        logger.removeFilter(_is_true)


def _is_true(record: logging.LogRecord) -> bool:
    return _NEVER_TRUE not in record.getMessage()
