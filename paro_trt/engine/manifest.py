"""`model.engine.json`: what an engine was built from, with which software and for which GPU.

Manifests are untrusted input. The structs below declare the document. A manifest that does not
match them is refused before the engine is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from ..documents import Sha256, shown
from ..errors import ArgumentError, OnnxFileError
from ..onnx_file.info import ExportInfo
from ..onnx_file.tensors import TensorSpec
from .errors import EngineError
from .settings import BATCH, MAX_PROFILES
from .tensorrt_api import Flavour

Line = Annotated[str, Meta(min_length=1, max_length=1024)]
OptionalLine = Annotated[str, Meta(max_length=1024)]
SizeName = Annotated[str, Meta(min_length=1, max_length=64)]
Size = Annotated[int, Meta(ge=1, le=1 << 40)]
Sizes = Annotated[tuple[Size, ...], Meta(max_length=8)]
Dtype = Literal["float32", "float16", "bfloat16", "int32", "int64", "bool", "int8", "uint8"]


class _Record(Struct, frozen=True, forbid_unknown_fields=True):
    """A part of the document. Messages print its text values, so each must be one line."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if isinstance(value, str):
                _check_printable(name, value)


class EngineTensor(TensorSpec, frozen=True, forbid_unknown_fields=True):
    """An input or output of an engine.

    Args:
        name: as in the ONNX file.
        dtype: NumPy's name of the element type, or "bfloat16".
        shape: sizes; a string is a free size.
        min: smallest shape of an input.
        opt: the shape the engine is tuned for.
        max: largest shape; of an output, that at the largest inputs.
    """

    name: Line
    dtype: Dtype
    shape: Annotated[tuple[Size | SizeName, ...], Meta(max_length=8)]
    min: Sizes
    opt: Sizes
    max: Sizes

    def __post_init__(self) -> None:
        for text in (self.name, *(size for size in self.shape if isinstance(size, str))):
            _check_printable("name", text)
        shapes = (self.min, self.opt, self.max, self.shape)
        if len({len(shape) for shape in shapes}) != 1:
            raise EngineError(
                "shape", expected="as many sizes as in min, opt and max", actual=str(self)
            )
        for low, likely, high, size in zip(*shapes, strict=True):
            fixed = isinstance(size, str) or low == likely == high == size
            if not low <= likely <= high or not fixed:
                raise EngineError(
                    "shape",
                    expected="min <= opt <= max, equal where a size is fixed",
                    actual=f"{low}, {likely}, {high} for {size}",
                )

    def size_range(self, axis: int) -> tuple[int, int | None]:
        """The smallest and the largest size of an axis."""
        same_rank = len(self.shape) == len(self.min) == len(self.max)  # False only while refused
        return (self.min[axis], self.max[axis]) if same_rank else super().size_range(axis)


class EngineFile(_Record, frozen=True):
    """Size and hash of the engine file."""

    bytes: Annotated[int, Meta(ge=1, le=1 << 50)]
    sha256: Sha256


class TensorRtRecord(_Record, frozen=True):
    """The TensorRT that built the engine.

    Args:
        flavour: TensorRT or TensorRT for RTX.
        version: its version.
        cuda: version of the CUDA runtime; "" where none was there.
        weight_streaming: whether weights may stay in host memory.
    """

    flavour: Flavour
    version: Line
    cuda: OptionalLine
    weight_streaming: bool


class GpuRecord(_Record, frozen=True):
    """The GPU that the engine is for.

    Args:
        sm: 10 * major + minor of its compute capability.
        name: the product's; "" where the engine was built without the GPU.
    """

    sm: Annotated[int, Meta(ge=10, le=9999)]
    name: OptionalLine


class OnnxRecord(_Record, frozen=True):
    """The ONNX file that the engine was built from.

    Args:
        file: its name.
        sha256: as `OnnxSource.sha256`.
        attention: number of PAROAttention nodes.
        metadata: as `ExportInfo.to_metadata`.
    """

    file: Line
    sha256: Sha256
    attention: Annotated[int, Meta(ge=0, le=1 << 20)]
    metadata: dict[str, str]

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            self.info()
        except OnnxFileError as error:
            raise EngineError(
                error.subject, expected=error.expected, actual=error.actual
            ) from error

    def info(self) -> ExportInfo:
        """Model, grid, plan and bins of the file."""
        return ExportInfo.from_metadata("onnx", self.metadata)


class PluginRecord(_Record, frozen=True):
    """The plugin library that an engine was built with: see `plugin_library.PluginFile`."""

    file: Line
    sha256: Sha256
    name: Line
    abi: Annotated[int, Meta(ge=0, le=1 << 31)]


Bytes = Annotated[int, Meta(ge=0, le=1 << 50)]


class MemoryRecord(_Record, frozen=True):
    """What the engine takes of a GPU's memory, in bytes; None where it is not known.

    Args:
        weights: as TensorRT's builder counts them.
        activations: of one context at the largest shapes, workspaces included, as it counts them.
        plugin_workspace: the largest of PAROAttention's layers, a part of the activations.
    """

    weights: Bytes | None
    activations: Bytes | None
    plugin_workspace: Bytes | None

    @property
    def total(self) -> int | None:
        """Weights and activations."""
        if self.weights is None or self.activations is None:
            return None
        return self.weights + self.activations


class BatchProfile(_Record, frozen=True):
    """An optimization profile: batches that a part of the engine is tuned for.

    Args:
        min: smallest batch.
        opt: the batch it is tuned for.
        max: largest batch.
        activations: bytes of a context at the largest batch, as `MemoryRecord.activations`; None
            where it is not known.
    """

    min: Size
    opt: Size
    max: Size
    activations: Bytes | None = None

    def __post_init__(self) -> None:
        if not self.min <= self.opt <= self.max:
            raise EngineError("profiles", expected="min <= opt <= max", actual=str(self)[:200])

    def __str__(self) -> str:
        sizes = f"{self.min}" if self.min == self.max else f"{self.min} to {self.max}"
        return f"{sizes}, tuned for {self.opt}"


class RefitWeight(_Record, frozen=True):
    """A weight or bias of a linear layer that can be replaced in the engine.

    Args:
        name: in the model.
        dtype: as `EngineTensor.dtype`.
        shape: in the model.
        transposed: the engine holds the transpose.
    """

    name: Line
    dtype: Dtype
    shape: Sizes
    transposed: bool


class RefitRecord(_Record, frozen=True):
    """What can be replaced in an engine that was built with `refit`.

    Args:
        weights: those that can be replaced.
        fixed: first 16 digits of the SHA-256 of each other weight or constant, by its name in the
            model.
        made_from: the weights it was refitted with; "" before.
    """

    weights: Annotated[tuple[RefitWeight, ...], Meta(min_length=1, max_length=1 << 16)]
    fixed: dict[str, str]
    made_from: OptionalLine = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        for text in (*self.fixed, *self.fixed.values()):
            _check_printable("fixed", text)


Tensors = Annotated[tuple[EngineTensor, ...], Meta(min_length=1, max_length=256)]


class EngineManifest(_Record, frozen=True):
    """The manifest of an engine.

    Args:
        paro_engine: version of this document.
        made_by: program and version.
        key: hash of everything that the build depends on; equal keys mean equal engines.
        engine: the engine file.
        tensorrt: what built it.
        gpu: what it runs on.
        onnx: what it was built from.
        plugin: None where no plugin computes PAROAttention.
        inputs: in the ONNX file's order.
        outputs: in the ONNX file's order.
        memory: None in manifests of earlier releases.
        profiles: of an engine with several, in its order; () where there is one.
        refit: None where no weight can be replaced.
    """

    paro_engine: Literal[1]
    made_by: Line
    key: Sha256
    engine: EngineFile
    tensorrt: TensorRtRecord
    gpu: GpuRecord
    onnx: OnnxRecord
    plugin: PluginRecord | None
    inputs: Tensors
    outputs: Tensors
    memory: MemoryRecord | None = None
    profiles: Annotated[tuple[BatchProfile, ...], Meta(max_length=MAX_PROFILES)] = ()
    refit: RefitRecord | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for kind, tensors in (("inputs", self.inputs), ("outputs", self.outputs)):
            names = [entry.name for entry in tensors]
            if len(set(names)) != len(names):
                raise EngineError(
                    kind, expected="tensors of different names", actual=", ".join(names)[:200]
                )

    @property
    def info(self) -> ExportInfo:
        """Model, grid, plan and bins of the ONNX file."""
        return self.onnx.info()

    def profile_of(self, sizes: Mapping[str, int]) -> int:
        """Index of the optimization profile for inputs of these free sizes.

        Raises:
            ArgumentError: the batch is in none of them.
        """
        batch = sizes.get(BATCH, 1)
        for index, profile in enumerate(self.profiles):
            if profile.min <= batch <= profile.max:
                return index
        if not self.profiles:
            return 0
        raise ArgumentError(
            BATCH,
            expected="a batch of " + ", or of ".join(map(str, self.profiles)),
            actual=str(batch),
            remedy=f"paro-trt build with another --batch {batch},{batch},{batch}",
        )

    def require_streaming(self, budget: object) -> None:
        """Raise ArgumentError, which names the budget, unless the engine can stream its weights."""
        if not self.tensorrt.weight_streaming:
            raise ArgumentError(
                "weight_streaming_budget",
                expected="none: this engine cannot stream its weights",
                actual=str(budget),
                remedy="paro-trt build --weight-streaming",
            )

    def to_json(self) -> dict[str, Any]:
        """The document as JSON values."""
        document: dict[str, Any] = msgspec.to_builtins(self)
        return document


def _check_printable(name: str, text: str) -> None:
    if not text.isprintable():
        raise EngineError(name, expected="a line of printable text", actual=shown(text))
