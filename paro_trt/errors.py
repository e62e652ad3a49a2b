"""The errors of the package. Each message has four parts: subject, expected, actual and fix."""

from __future__ import annotations


class ParoError(Exception):
    """Base of every error this package raises on bad input.

    The command line prints the message as one line and exits with status 2.
    """

    def __init__(self, subject: str, *, expected: str, actual: str, remedy: str = "") -> None:
        """Compose the message.

        Args:
            subject: the argument, tensor, file or option at fault.
            expected: what would have been accepted.
            actual: what arrived.
            remedy: what to do about it; may be empty where `expected` says it all.
        """
        self.subject = subject
        self.expected = expected
        self.actual = actual
        self.remedy = remedy
        fix = f"; fix: {remedy}" if remedy else ""
        super().__init__(f"{subject}: expected {expected}, got {actual}{fix}")


class ArgumentError(ParoError, ValueError):
    """An argument of the op or of a public function is out of its contract."""


class BackendUnavailableError(ParoError, RuntimeError):
    """The implementation asked for is not built, not installed or cannot take the arguments."""


class PlanError(ParoError, ValueError):
    """A plan file is damaged, hostile, of another version or of another model."""


class ModelError(ParoError, ValueError):
    """A model directory is missing, incomplete, of an unknown family or does not fit its grid."""


class OnnxFileError(ParoError, ValueError):
    """An ONNX file is damaged or is not what its metadata says."""
