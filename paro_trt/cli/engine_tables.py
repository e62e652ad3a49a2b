"""An engine's manifest as tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from . import output

if TYPE_CHECKING:
    from ..engine import EngineManifest


def show_engine(manifest: EngineManifest, path: Path) -> None:
    """Print what a manifest says."""
    from ..engine.manifest import summary

    size = output.file_size(manifest.engine_bytes)
    output.print_facts(f"engine manifest {path}", {"engine size": size, **summary(manifest)})
    columns = ("", "name", "type", "shape", "smallest", "tuned for", "largest")
    tensors = output.table("inputs and outputs", *columns)
    for direction in ("inputs", "outputs"):
        for entry in getattr(manifest, direction):
            shapes = (entry.shape, entry.min, entry.opt, entry.max)
            words = (" x ".join(map(str, shape)) for shape in shapes)
            tensors.add_row(direction[:-1], entry.name, entry.dtype, *words)
    output.results().print(tensors)
