"""Reading an ONNX file: the model with its external data checked, its nodes and its constants."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import OnnxFileError
from ..file_kinds import FileKind, file_kind
from ..op.spec import DOMAIN, OP_TYPE, OP_VERSION_2, op_inputs

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray


MOST_ROTATED = 256
"""Most channels of a head that the function in a file rotates, which does so in 8 steps."""


class Body(str, Enum):
    """The function that a file carries for its PAROAttention nodes.

    SPARSE: a loop that reads listed key blocks only. DENSE: the mask expanded, no loop.
    NONE: no function; only a runtime with the plugin can run the file.
    """

    SPARSE = "sparse"
    DENSE = "dense"
    NONE = "none"


def read_onnx(path: Path) -> onnx.ModelProto:
    """The model of a file, without its weights. Its external data must be there and long enough.

    Raises:
        OnnxFileError: the file or its external data is missing, truncated or damaged.
    """
    import onnx

    if not path.is_file():
        actual = "a directory" if path.is_dir() else "no such file"
        raise OnnxFileError(str(path), expected="an ONNX file", actual=actual)
    if (kind := file_kind(path)) not in (FileKind.ONNX, None):
        raise OnnxFileError(str(path), expected="an ONNX file", actual=kind.value)
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's decoding errors vary with its implementation
        raise file_error(path, "a complete ONNX file", error) from error
    if not model.graph.node:
        raise OnnxFileError(
            str(path), expected="a complete ONNX file", actual="a file without a graph"
        )
    needed: dict[str, int] = {}
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            location, end = _external_extent(path, tensor)
            needed[location] = max(needed.get(location, 0), end)
    folder = next_to_its_data(path, model).parent
    for location, end in needed.items():
        data = folder / location
        if not data.is_file() or data.stat().st_size < end:
            actual = f"{data.stat().st_size} bytes" if data.is_file() else "no such file"
            raise OnnxFileError(
                str(data),
                expected=f"the external data of {path.name}, at least {end} bytes",
                actual=actual,
                remedy=f"keep it next to {path.name}, or export again",
            )
    return model


def file_error(path: Path, expected: str, error: Exception, remedy: str = "") -> OnnxFileError:
    """The error for a file that a library refused with `error`."""
    text = " ".join(str(error).split()) or type(error).__name__
    return OnnxFileError(str(path), expected=expected, actual=text[:300], remedy=remedy)


def is_attention(node: onnx.NodeProto) -> bool:
    """Whether a node is PAROAttention."""
    return (node.domain, node.op_type) == (DOMAIN, OP_TYPE)


def body_of(model: onnx.ModelProto) -> Body:
    """The body that a file carries; NONE also where it has no PAROAttention at all."""
    for function in model.functions:
        if (function.domain, function.name) == (DOMAIN, OP_TYPE):
            loops = any(node.op_type == "Loop" for node in function.node)
            return Body.SPARSE if loops else Body.DENSE
    return Body.NONE


def op_version(model: onnx.ModelProto) -> int:
    """The version of the paro operators that a file uses; 0 where it names none."""
    versions = [entry.version for entry in model.opset_import if entry.domain == DOMAIN]
    return int(versions[0]) if versions else 0


def attributes_read(function: onnx.FunctionProto) -> set[str]:
    """The attributes of its node that a function reads, in its subgraphs too."""
    names, pending = set(), list(function.node)
    while pending:
        for attribute in pending.pop().attribute:
            names.add(attribute.ref_attr_name)
            pending.extend(attribute.g.node)
    return names - {""}


def attributes_of(node: onnx.NodeProto) -> dict[str, float | int | str]:
    """A node's attributes, text decoded."""
    import onnx

    values = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
    return {
        name: value.decode() if isinstance(value, bytes) else value
        for name, value in values.items()
    }


def check_rotations(path: Path, model: onnx.ModelProto) -> None:
    """Raise OnnxFileError where the function in a file would rotate heads wrongly.

    Who computes the op by that function asks first; native kernels have checks of their own.
    """
    if body_of(model) is Body.NONE:
        return
    graph = model.graph
    place = [entry.name for entry in op_inputs(OP_VERSION_2)].index("rotation")
    channels = {tensor.name: tensor.dims[-1] for tensor in graph.initializer if tensor.dims}
    for value in (*graph.input, *graph.value_info):
        sizes = value.type.tensor_type.shape.dim
        channels |= {value.name: sizes[-1].dim_value} if sizes else {}
    for node in filter(is_attention, graph.node):
        smoothed = attributes_of(node).get("smoothing") == 1 and len(node.input) > place
        if smoothed and (most := channels.get(node.input[place], 0)) > MOST_ROTATED:
            raise OnnxFileError(
                f"{path}: smoothing of {node.name or 'a node without a name'}",
                expected=f"at most {MOST_ROTATED} channels a head",
                actual=str(most),
                remedy="write the node with smoothing 0",
            )


def external_files(model: onnx.ModelProto) -> list[str]:
    """Names of the files that hold a model's external data, sorted."""
    entries = [entry for tensor in model.graph.initializer for entry in tensor.external_data]
    return sorted({entry.value for entry in entries if entry.key == "location"})


def next_to_its_data(path: Path, model: onnx.ModelProto) -> Path:
    """`path`, or what it links to where the external data is next to that file alone."""
    names, real = external_files(model), path.resolve()
    there = all((path.parent / name).exists() for name in names)
    return path if there or not all((real.parent / name).exists() for name in names) else real


class Constants:
    """Initializers of a file by name, external ones read on demand.

    They are read here and not by onnx, which refuses data files that have a second hard link or
    are links, as stores of equal files make them.
    """

    def __init__(self, path: Path, model: onnx.ModelProto) -> None:
        self._path = next_to_its_data(path, model)
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}

    def get(self, name: str) -> NDArray[np.generic] | None:
        """The values; None where no initializer has this name.

        Raises:
            OnnxFileError: external data is missing, or shorter or longer than its shape says.
        """
        import numpy as np
        import onnx

        tensor = self._tensors.get(name)
        array: NDArray[np.generic]
        if tensor is None:
            return None
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            array = onnx.numpy_helper.to_array(tensor)
            return array
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        content = self._external(tensor)
        expected = int(np.prod(tensor.dims, dtype=np.int64)) * dtype.itemsize
        if len(content) != expected:
            raise OnnxFileError(
                f"{self._path}: {name}"[:200],
                expected=f"{expected} bytes of external data",
                actual=f"{len(content)}",
                remedy="export again",
            )
        array = np.frombuffer(content, dtype).reshape(tuple(tensor.dims))
        # ONNX data is little-endian.
        return array.byteswap() if sys.byteorder == "big" else array

    def _external(self, tensor: onnx.TensorProto) -> bytes:
        location, end = _external_extent(self._path, tensor)
        entries = {entry.key: entry.value for entry in tensor.external_data}
        start = int(entries.get("offset", "0"))
        try:
            with (self._path.parent / location).open("rb") as file:
                file.seek(start)
                return file.read(end - start)
        except OSError as error:
            raise file_error(self._path.parent / location, "external data", error) from error


def _external_extent(path: Path, tensor: onnx.TensorProto) -> tuple[str, int]:
    """File name and last byte of a tensor's external data."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    try:
        end = int(entries.get("offset", "0")) + int(entries.get("length", "0"))
    except ValueError:
        end = -1
    inside = location and not Path(location).is_absolute() and ".." not in Path(location).parts
    if not inside or end < 0:
        raise OnnxFileError(
            f"{path}: {tensor.name}"[:200],
            expected="external data in the same directory",
            actual=repr(entries)[:120],
        )
    return location, end
