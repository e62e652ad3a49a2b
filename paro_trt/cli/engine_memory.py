"""What an engine or an exported file takes of a GPU's memory, for several verbs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .paths import require_file


def engine_memory(file: Path, batch: int = 1) -> Mapping[str, object]:
    """Facts by name: weights, activations and the plugin's workspace, and which GPUs hold them.

    Args:
        file: an engine, or an exported ONNX file, for which they are estimated.
        batch: the largest, of an ONNX file.
    """
    require_file(file, "an exported ONNX model or an engine")

    from ..engine import BuildSettings, SizeRange
    from ..engine.estimate import memory_of_file
    from ..engine.manifest_facts import memory_facts

    settings = BuildSettings(sizes={"B": SizeRange(1, batch, batch)})
    memory, said = memory_of_file(file, settings)
    return {f"{name} ({said})" if name == "memory" else name: value
            for name, value in memory_facts(memory).items()}  # fmt: skip
