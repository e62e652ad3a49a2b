"""Optimization profiles: the shapes that each input may have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import ArgumentError
from ..onnx_file.tensors import TensorSpec
from .settings import BATCH, BuildSettings, SizeRange

Shape = tuple[int, ...]


@dataclass(frozen=True)
class InputProfile:
    """Smallest, likeliest and largest shape of one input."""

    name: str
    min: Shape
    opt: Shape
    max: Shape


def optimization_profiles(
    inputs: Sequence[TensorSpec], settings: BuildSettings
) -> tuple[tuple[InputProfile, ...], ...]:
    """One profile for each range of the batch: every input that has a free size, in order.

    A file without free sizes has none.

    Raises:
        ArgumentError: settings name a free size that no input has.
    """
    symbols = {size: None for entry in inputs for size in entry.shape if isinstance(size, str)}
    unknown = [name for name in settings.sizes if name not in symbols]
    if unknown:
        raise ArgumentError(
            f"size {unknown[0]}",
            expected=f"one of the file's free sizes: {', '.join(symbols) or 'it has none'}",
            actual="no input has it",
        )

    if not symbols:
        return ()
    return tuple(
        tuple(
            InputProfile(entry.name, *shape_range(entry, settings, batch))
            for entry in inputs
            if any(isinstance(size, str) for size in entry.shape)
        )
        for batch in settings.batches
    )


def shape_range(
    spec: TensorSpec, settings: BuildSettings, batch: SizeRange | None = None
) -> tuple[Shape, Shape, Shape]:
    """Smallest, likeliest and largest shape of a tensor, in one profile or in all of them.

    Args:
        spec: the tensor.
        settings: ranges of free sizes.
        batch: that of the profile; None for all.
    """

    def bound(size: int | str, name: str) -> int:
        if isinstance(size, int):
            return size
        of = batch if batch is not None and size == BATCH else settings.range_of(size)
        found: int = getattr(of, name)
        return found

    def shape(name: str) -> Shape:
        return tuple(bound(size, name) for size in spec.shape)

    return shape("min"), shape("opt"), shape("max")
