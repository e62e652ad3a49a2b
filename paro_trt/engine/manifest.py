"""`model.engine.json`: what an engine was built from, by and for. Checked before it is loaded.

Manifests are hostile input: of bounded size, every value checked for its type and range.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from ..errors import OnnxFileError
from ..onnx_file.info import SessionInfo
from .errors import EngineError
from .fields import Fields
from .tensorrt_api import Flavour

FORMAT = 1
SUFFIX = ".json"
MAX_BYTES = 1 << 20
MAX_TENSORS = 256
DTYPES = ("float32", "float16", "bfloat16", "int32", "int64", "bool", "int8", "uint8")

_HASH_CHUNK = 1 << 20
_REBUILD = "build the engine again: paro-trt build"


@dataclass(frozen=True)
class EngineTensor:
    """An input or output of an engine.

    Args:
        name: as in the ONNX file.
        dtype: NumPy's name of the element type, or "bfloat16".
        shape: sizes; a string is a free size.
        min: smallest shape of an input.
        opt: the shape the engine is tuned for.
        max: largest shape; of an output, that at the largest inputs.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]


@dataclass(frozen=True)
class PluginRecord:
    """The plugin library an engine was built with: see `plugin_library.PluginFile`."""

    file: str
    sha256: str
    name: str
    abi: int


@dataclass(frozen=True)
class EngineManifest:
    """What is known of an engine.

    Args:
        engine_bytes: size of the engine file; engine_sha256: its hash.
        key: hash of all that went into the build; equal keys mean equal engines.
        flavour: TensorRT or TensorRT for RTX.
        tensorrt: its version; cuda: that of the CUDA runtime, "" where none was there.
        sm: GPU, as 10 * major + minor of its compute capability.
        gpu: its name; "" where it was built without one.
        onnx_file: name of the ONNX file; onnx_sha256: as `OnnxSource.sha256`.
        info: what that file says of model, grid, plan and bins.
        attention: PAROAttention nodes.
        plugin: None where the function body is computed, or nothing is attended by PARO.
        inputs: in the file's order.
        outputs: in the file's order.
        weight_streaming: whether weights may stay in host memory.
        made_by: program and version.
    """

    engine_bytes: int
    engine_sha256: str
    key: str
    flavour: Flavour
    tensorrt: str
    cuda: str
    sm: int
    gpu: str
    onnx_file: str
    onnx_sha256: str
    info: SessionInfo
    attention: int
    plugin: PluginRecord | None
    inputs: tuple[EngineTensor, ...]
    outputs: tuple[EngineTensor, ...]
    weight_streaming: bool
    made_by: str

    def to_json(self) -> dict[str, Any]:
        """The document of the file."""
        return {
            "paro_engine": FORMAT,
            "made_by": self.made_by,
            "key": self.key,
            "engine": {"bytes": self.engine_bytes, "sha256": self.engine_sha256},
            "tensorrt": {
                "flavour": self.flavour.value,
                "version": self.tensorrt,
                "cuda": self.cuda,
                "weight_streaming": self.weight_streaming,
            },
            "gpu": {"sm": self.sm, "name": self.gpu},
            "onnx": {
                "file": self.onnx_file,
                "sha256": self.onnx_sha256,
                "attention": self.attention,
                "metadata": self.info.to_metadata(),
            },
            "plugin": None if self.plugin is None else dataclasses.asdict(self.plugin),
            "inputs": [dataclasses.asdict(entry) for entry in self.inputs],
            "outputs": [dataclasses.asdict(entry) for entry in self.outputs],
        }


def manifest_path(engine: Path) -> Path:
    """Where the manifest of an engine file lies."""
    return engine.with_name(engine.name + SUFFIX)


def is_undamaged(engine: Path, manifest: EngineManifest) -> bool:
    """Whether the engine file has the size and the hash that its manifest says."""
    if not engine.is_file() or engine.stat().st_size != manifest.engine_bytes:
        return False
    digest = hashlib.sha256()
    with engine.open("rb") as stream:
        while chunk := stream.read(_HASH_CHUNK):
            digest.update(chunk)
    return digest.hexdigest() == manifest.engine_sha256


def read_manifest(path: str | PathLike[str]) -> EngineManifest:
    """Read and check a manifest file.

    Raises:
        EngineError: it is missing, too large, no JSON, of another format, or a value is missing,
            unknown, of another type or out of range.
    """
    path = Path(path)
    if not path.is_file():
        raise EngineError(
            str(path),
            expected="the engine's manifest",
            actual="a directory" if path.is_dir() else "no such file",
            remedy="keep it beside the engine; for an engine of trtexec or Polygraphy make it with "
            "paro-trt build --adopt",
        )
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise EngineError(
            str(path), expected=f"at most {MAX_BYTES} bytes", actual=f"{size} bytes",
            remedy=_REBUILD,
        )  # fmt: skip
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise EngineError(
            str(path), expected="a JSON document", actual=" ".join(str(error).split())[:120],
            remedy=_REBUILD,
        ) from error  # fmt: skip
    return parse_manifest(str(path), document)


def parse_manifest(file: str, document: object) -> EngineManifest:
    """A manifest from its document; see `read_manifest`. `file` is for messages."""
    fields = Fields.of(file, document, _REBUILD)
    version = fields.integer("paro_engine", 0, 1 << 31)
    if version != FORMAT:
        fields.refuse("paro_engine", f"format {FORMAT}", str(version))
    engine, tensorrt = fields.record("engine"), fields.record("tensorrt")
    gpu, onnx, plugin = fields.record("gpu"), fields.record("onnx"), fields.optional("plugin")
    manifest = EngineManifest(
        engine_bytes=engine.integer("bytes", 1, 1 << 50),
        engine_sha256=engine.sha256("sha256"),
        key=fields.sha256("key"),
        flavour=Flavour(tensorrt.choice("flavour", [entry.value for entry in Flavour])),
        tensorrt=tensorrt.text("version"),
        cuda=tensorrt.text("cuda", empty=True),
        sm=gpu.integer("sm", 10, 9999),
        gpu=gpu.text("name", empty=True),
        onnx_file=onnx.text("file"),
        onnx_sha256=onnx.sha256("sha256"),
        info=_info(onnx),
        attention=onnx.integer("attention", 0, 1 << 20),
        plugin=None if plugin is None else _plugin(plugin),
        inputs=_tensors(fields, "inputs"),
        outputs=_tensors(fields, "outputs"),
        weight_streaming=tensorrt.flag("weight_streaming"),
        made_by=fields.text("made_by"),
    )
    for record in (engine, tensorrt, gpu, onnx, plugin, fields):
        if record is not None:
            record.finish()
    return manifest


def _info(onnx: Fields) -> SessionInfo:
    metadata = onnx.strings("metadata")
    try:
        return SessionInfo.from_metadata(onnx.place, metadata)
    except OnnxFileError as error:
        raise EngineError(
            error.subject, expected=error.expected, actual=error.actual, remedy=_REBUILD
        ) from error


def _plugin(record: Fields) -> PluginRecord:
    return PluginRecord(
        file=record.text("file"),
        sha256=record.sha256("sha256"),
        name=record.text("name"),
        abi=record.integer("abi", 0, 1 << 31),
    )


def _tensors(fields: Fields, name: str) -> tuple[EngineTensor, ...]:
    tensors = tuple(_tensor(entry) for entry in fields.records(name, MAX_TENSORS))
    names = [entry.name for entry in tensors]
    if not names or len(set(names)) != len(names):
        fields.refuse(name, "one or more tensors of different names", ", ".join(names) or "none")
    return tensors


def _tensor(record: Fields) -> EngineTensor:
    tensor = EngineTensor(
        name=record.text("name"),
        dtype=record.choice("dtype", DTYPES),
        shape=record.sizes("shape", names=True),
        min=_numbers(record, "min"),
        opt=_numbers(record, "opt"),
        max=_numbers(record, "max"),
    )
    record.finish()
    for low, likely, high, size in zip(*_padded(record, tensor), strict=True):
        fixed = isinstance(size, str) or low == likely == high == size
        if not low <= likely <= high or not fixed:
            record.refuse("shape", "min <= opt <= max, equal where a size is fixed", str(tensor))
    return tensor


def _numbers(record: Fields, name: str) -> tuple[int, ...]:
    return tuple(int(size) for size in record.sizes(name, names=False))


def _padded(record: Fields, tensor: EngineTensor) -> tuple[tuple[Any, ...], ...]:
    shapes = (tensor.min, tensor.opt, tensor.max, tensor.shape)
    if len({len(shape) for shape in shapes}) != 1:
        record.refuse("shape", "as many sizes as in min, opt and max", str(tensor))
    return shapes


def summary(manifest: EngineManifest) -> Mapping[str, object]:
    """What `paro-trt inspect` shows, by name."""
    plugin = manifest.plugin
    how = f"{plugin.name} ({plugin.file})" if plugin else "the function in the file, no plugin"
    return {
        "made by": manifest.made_by,
        "runs in": f"{manifest.flavour.label} {manifest.tensorrt}",
        "on": f"SM {manifest.sm}" + (f" ({manifest.gpu})" if manifest.gpu else ""),
        "model": manifest.info.model.class_name,
        "plan": manifest.info.plan_hash or "none: dense",
        "bins": len(manifest.info.bin_boundaries or ()) + 1,
        "from": f"{manifest.onnx_file} ({manifest.onnx_sha256[:16]})",
        "PAROAttention": f"{manifest.attention} layers by {how}" if manifest.attention else "none",
        "weight streaming": "yes" if manifest.weight_streaming else "no",
    }
