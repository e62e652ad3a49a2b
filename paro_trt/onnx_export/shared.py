"""One file of weights for several exported models, which stores each tensor once."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from .publish import DATA_SUFFIX
from .stored_weights import stored_weight

SMALLEST_SHARED = 256
"""From this size in bytes, a tensor is moved out of the model's own file."""

ALIGNMENT = 4096
"""Alignment of each tensor's offset in bytes, so that runtimes can map the file."""


class SharedWeights:
    """External data that grows with every model whose weights are moved into it.

    Args:
        directory: where models and data are saved.
        name: of the first model; the data's is this with DATA_SUFFIX.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self.path = directory / (name + DATA_SUFFIX)
        self._places: dict[object, tuple[int, int]] = {}

    def take(self, model: Any) -> None:
        """Move an IR model's tensors into the file. A tensor that the file holds already is only
        referred to."""
        import onnx_ir

        for value in model.graph.initializers.values():
            tensor = value.const_value
            if tensor is None or tensor.nbytes < SMALLEST_SHARED:
                continue
            offset, length = self._place(tensor)
            value.const_value = onnx_ir.ExternalTensor(
                self.path.name,
                offset,
                length,
                tensor.dtype,
                shape=tensor.shape,
                name=value.name,
                base_dir=self.path.parent,
            )

    def _place(self, tensor: Any) -> tuple[int, int]:
        """Offset and length of a tensor's bytes, written if they are new."""
        weight = stored_weight(tensor)
        # A weight of the model is the same in each of its files; its name saves a second reading.
        key = (
            hashlib.sha256(tensor.tobytes()).digest()
            if weight is None
            else (weight.name, weight.order)
        )
        if key not in self._places:
            with self.path.open("ab") as file:
                offset = -(-file.tell() // ALIGNMENT) * ALIGNMENT
                file.write(b"\0" * (offset - file.tell()))
                tensor.tofile(file)
            self._places[key] = (offset, tensor.nbytes)
        return self._places[key]
