"""An engine's manifest as tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from . import output

if TYPE_CHECKING:
    from ..engine import EngineManifest
    from ..engine.manifest import EngineTensor


def show_engine(manifest: EngineManifest, path: Path) -> None:
    """Print what a manifest says."""
    from ..engine.manifest_facts import summary

    size = output.file_size(manifest.engine.bytes)
    output.print_facts(f"engine manifest {path}", {"engine size": size, **summary(manifest)})
    tensors = output.table("inputs and outputs", "", "name", "type", "shape (min..opt..max)")
    for direction in ("inputs", "outputs"):
        for entry in getattr(manifest, direction):
            tensors.add_row(direction[:-1], entry.name, entry.dtype, _shape(entry))
    output.results().print(tensors)


def _shape(entry: EngineTensor) -> str:
    ranges = zip(entry.shape, entry.min, entry.opt, entry.max, strict=True)
    return " x ".join(
        f"{size}={low}..{likely}..{high}" if isinstance(size, str) else str(size)
        for size, low, likely, high in ranges
    )
