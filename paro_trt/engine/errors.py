"""Errors of building and loading engines."""

from __future__ import annotations

from ..errors import ParoError


class EngineError(ParoError, ValueError):
    """An engine or its manifest is missing, damaged, or was made for something else."""


class BuildError(ParoError, RuntimeError):
    """TensorRT refused to parse a model or to build its engine."""
