"""The metadata of an exported file, which the exporter writes and the runtimes read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from ..documents import is_sha256
from ..errors import OnnxFileError, PlanError
from ..plan import Grid, ModelIdentity, TextLayout
from ..plan.bins import check_bin_boundaries

FORMAT = 1
"""Version of the exported graph's inputs, outputs and metadata."""


@dataclass(frozen=True)
class ExportInfo:
    """Where an exported model comes from.

    Args:
        model: class and config hash of the transformer.
        grid: the token grid it was exported for.
        plan_hash: content hash of the plan; None for a dense export.
        bin_boundaries: the plan's, T-1 descending timesteps; None for a dense export.
        text: the text tokens that join the grid's in the attention.
        frame_rate: frames a second of the positions in time, which are constants of the file; None
            where the model does not know of seconds.
    """

    model: ModelIdentity
    grid: Grid
    plan_hash: str | None = None
    bin_boundaries: tuple[float, ...] | None = None
    text: TextLayout = TextLayout()  # noqa: RUF009 (frozen)
    frame_rate: float | None = None

    def to_metadata(self) -> dict[str, str]:
        """The metadata_props of an ONNX file."""
        metadata = {
            "paro.format": str(FORMAT),
            "paro.model_class": self.model.class_name,
            "paro.config_hash": self.model.config_hash,
            "paro.grid": json.dumps([self.grid.frames, self.grid.height, self.grid.width]),
        }
        if self.text.count:
            text = self.text
            metadata["paro.text"] = json.dumps([text.count, text.position.value, text.padded])
        if self.frame_rate is not None:
            metadata["paro.frame_rate"] = f"{self.frame_rate:g}"
        if self.plan_hash is not None:
            metadata["paro.plan_hash"] = self.plan_hash
            metadata["paro.bin_boundaries"] = json.dumps(self.bin_boundaries)
        return metadata

    @classmethod
    def from_metadata(cls, file: str, metadata: Mapping[str, str]) -> ExportInfo:
        """Read metadata_props back.

        Args:
            file: the file's name, for messages.
            metadata: keys and values.

        Raises:
            OnnxFileError: the metadata is missing, of another format, or damaged.
        """
        version = metadata.get("paro.format")
        if version != str(FORMAT):
            raise OnnxFileError(
                f"{file}: metadata paro.format",
                expected=f'"{FORMAT}"',
                actual=repr(version)[:80] if version else "none",
                remedy="export the model with this version of paro-trt export",
            )
        try:
            boundaries = _boundaries(metadata)
            return cls(
                ModelIdentity(metadata["paro.model_class"], metadata["paro.config_hash"]),
                Grid(*json.loads(metadata["paro.grid"])),
                _plan_hash(metadata) if boundaries is not None else None,
                boundaries,
                TextLayout(*json.loads(metadata.get("paro.text", "[]"))),
                _frame_rate(metadata.get("paro.frame_rate")),
            )
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            detail = f"no {error}" if isinstance(error, KeyError) else str(error)
            if isinstance(error, PlanError):
                detail = f"{error.subject} {error.actual}"
            raise OnnxFileError(
                f"{file}: metadata",
                expected="the paro.* keys that paro-trt export writes",
                actual=detail[:160],
                remedy="export the model again",
            ) from error


def _plan_hash(metadata: Mapping[str, str]) -> str:
    value = metadata["paro.plan_hash"]
    if not is_sha256(value):
        raise ValueError(f"paro.plan_hash {value[:80]}")
    return value


def _frame_rate(text: str | None) -> float | None:
    rate = None if text is None else float(text)
    if rate is not None and not 0 < rate < 1000:
        raise ValueError(f"paro.frame_rate {str(text)[:80]}")
    return rate


def _boundaries(metadata: Mapping[str, str]) -> tuple[float, ...] | None:
    text = metadata.get("paro.bin_boundaries")
    return None if text is None else check_bin_boundaries(json.loads(text))
