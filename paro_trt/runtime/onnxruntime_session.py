"""Exported ONNX files in ONNX Runtime, with or without a native op."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import ArgumentError, OnnxFileError
from ..onnx_file.info import ExportInfo
from ..onnx_file.read import (
    check_rotations,
    external_files,
    file_error,
    next_to_its_data,
    read_onnx,
)
from ..onnx_file.tensors import TensorSpec
from .custom_op import NativeOp, check_provider, register_custom_op, unsupported_call
from .session import Arrays, Session

if TYPE_CHECKING:
    import onnx

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}

_DATA_FOLDER = "session.model_external_initializers_file_folder_path"
"""Option of ONNX Runtime: where the external data of a model in memory is."""

_FATAL_ONLY = 4
"""ONNX Runtime also logs the errors that it raises; they are reported once."""


class OrtSession(Session):
    """An exported ONNX file, ready to run on the CPU or on ONNX Runtime's CUDA provider.

    Args:
        path: the .onnx file; its external data is next to it.
        threads: of one operator; None leaves the choice to ONNX Runtime and to the native op.
        native_op: PAROAttention is computed by these kernels; None: by the function that the file
            carries, on the CPU.

    Raises:
        BackendUnavailableError: the native op was not built, or this ONNX Runtime lacks its
            provider; or, from `run`, its kernels lack what the file asks for.
        OnnxFileError: the file or its external data is missing, damaged, not runnable, or not
            from this package's exporter.
        ArgumentError: threads is not positive.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        threads: int | None = None,
        *,
        native_op: NativeOp | None = None,
    ) -> None:
        if threads is not None and threads < 1:
            raise ArgumentError("threads", expected="at least 1", actual=str(threads))
        self.path = Path(path)
        self._native_op = native_op
        model = read_onnx(self.path)
        if native_op is None:
            check_rotations(self.path, model)
        loaded = _load(self.path, model, threads, native_op)
        self._session: Any = loaded.session
        self._inputs = _specs(self.path, loaded.inputs)
        self._outputs = _specs(self.path, loaded.outputs)
        self._info = ExportInfo.from_metadata(str(self.path), loaded.metadata)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What `run` takes, all of it."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What `run` returns."""
        return self._outputs

    @property
    def info(self) -> ExportInfo:
        """What the file says of the model it was made from."""
        return self._info

    def close(self) -> None:
        """Release ONNX Runtime's session."""
        self._session = None

    def _execute(self, inputs: Arrays) -> Arrays:
        if self._session is None:
            raise ArgumentError(str(self.path), expected="an open session", actual="a closed one")
        try:
            values = self._session.run(None, inputs)
        except Exception as error:  # ONNX Runtime's errors share no narrower base
            op = self._native_op
            if op is not None and (refusal := unsupported_call(error, op)):
                raise refusal from error
            raise file_error(self.path, "a graph that runs on these inputs", error) from error
        return {spec.name: value for spec, value in zip(self._outputs, values, strict=True)}


class _Node(NamedTuple):
    """An input or output in ONNX Runtime's terms; None is a free size without a name."""

    name: str
    type: str
    shape: list[int | str | None]


class _Loaded(NamedTuple):
    """ONNX Runtime's session and all that it tells of the file."""

    session: Any
    inputs: list[_Node]
    outputs: list[_Node]
    metadata: dict[str, str]


def _load(
    path: Path, model: onnx.ModelProto, threads: int | None, native_op: NativeOp | None
) -> _Loaded:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    if threads is not None:
        options.intra_op_num_threads = threads
    providers = ["CPUExecutionProvider"]
    if native_op is not None:
        check_provider(native_op)
        register_custom_op(options, threads, native_op)
        providers = native_op.providers
    try:
        session = onnxruntime.InferenceSession(
            _loadable(path, model, options), options, providers=providers, enable_fallback=0
        )
        inputs, outputs = (
            [_Node(node.name, node.type, node.shape) for node in nodes]
            for nodes in (session.get_inputs(), session.get_outputs())
        )
        return _Loaded(session, inputs, outputs, session.get_modelmeta().custom_metadata_map)
    except OnnxFileError:
        raise
    except Exception as error:  # ONNX Runtime's errors share no narrower base
        remedy = ""
        if "NOT_IMPLEMENTED" in str(error) and _is_bfloat16(model):
            remedy = (
                "its CPU operators lack bfloat16: export with --dtype float32, or build an engine"
            )
        raise file_error(path, "an ONNX file that ONNX Runtime can load", error, remedy) from error


def _is_bfloat16(model: onnx.ModelProto) -> bool:
    from onnx import TensorProto

    return any(x.type.tensor_type.elem_type == TensorProto.BFLOAT16 for x in model.graph.output)


def _loadable(path: Path, model: onnx.ModelProto, options: Any) -> Path | bytes:
    """What ONNX Runtime opens: the file, or a copy of it that names data where its links end.

    ONNX Runtime reads external data next to the model or next to what the model's name links to,
    and refuses links that lead elsewhere.
    """
    path = next_to_its_data(path, model)
    data = {name: (path.parent / name).resolve() for name in external_files(model)}
    homes = {file.parent for file in data.values()}
    if homes <= {path.parent.resolve(), path.resolve().parent}:
        return path
    if len(homes) > 1:
        raise OnnxFileError(
            str(path),
            expected="external data in one directory",
            actual=f"links into {len(homes)}: {', '.join(map(str, sorted(homes)))}"[:300],
            remedy="copy the data next to the file",
        )
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = data[entry.value].name
    options.add_session_config_entry(_DATA_FOLDER, str(homes.pop()))
    content: bytes = model.SerializeToString()
    return content


def _specs(path: Path, nodes: list[_Node]) -> tuple[TensorSpec, ...]:
    for node in nodes:
        if node.type not in _DTYPES:
            raise OnnxFileError(
                f"{path}: {node.name}"[:200],
                expected=f"one of {', '.join(_DTYPES)}",
                actual=node.type,
                remedy="export in float32 or float16 for ONNX Runtime",
            )
    # Free sizes without a name are independent of each other.
    return tuple(
        TensorSpec(
            node.name,
            _DTYPES[node.type],
            tuple(
                f"{node.name}.{axis}" if size is None else size
                for axis, size in enumerate(node.shape)
            ),
        )
        for node in nodes
    )
