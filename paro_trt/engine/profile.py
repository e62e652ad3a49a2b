"""The optimization profile: the shapes that each input may have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import ArgumentError
from ..onnx_file.tensors import TensorSpec
from .settings import BuildSettings

Shape = tuple[int, ...]


@dataclass(frozen=True)
class InputProfile:
    """Smallest, likeliest and largest shape of one input."""

    name: str
    min: Shape
    opt: Shape
    max: Shape


def input_profiles(
    inputs: Sequence[TensorSpec], settings: BuildSettings
) -> tuple[InputProfile, ...]:
    """The profile of every input that has a free size, in the file's order.

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

    return tuple(
        InputProfile(entry.name, *shape_range(entry, settings))
        for entry in inputs
        if any(isinstance(size, str) for size in entry.shape)
    )


def shape_range(spec: TensorSpec, settings: BuildSettings) -> tuple[Shape, Shape, Shape]:
    """Smallest, likeliest and largest shape of a tensor."""

    def shape(bound: str) -> Shape:
        return tuple(
            getattr(settings.range_of(size), bound) if isinstance(size, str) else size
            for size in spec.shape
        )

    return shape("min"), shape("opt"), shape("max")
