"""Writes a model repository for Triton Inference Server that serves an engine.

Field names are those of Triton's model_config.proto. The file is text-format protobuf, and small
enough to be written here. If tritonclient is installed, its schema parses the result.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from ..errors import ArgumentError
from ..files import atomic_write
from .errors import EngineError
from .manifest import EngineManifest, EngineTensor
from .manifest_file import found_manifest, manifest_path, read_manifest
from .plugin_library import AUTOREG_LIBRARY
from .settings import BATCH
from .tensorrt_api import Flavour

BACKEND = "tensorrt"
MODEL_FILE = "model.plan"
STREAMING_BACKEND, STREAMING_FILES = "python", ("model.engine", "model.py")
"""Triton's TensorRT backend has no budget for weights: `runtime.triton_backend` runs the engine."""

_MODEL_PY = """from paro_trt.runtime.triton_backend import TritonPythonModel

__all__ = ["TritonPythonModel"]
"""
VERSION = "1"
CONFIG_FILE, README_FILE = "config.pbtxt", "README.md"

DATA_TYPES = {
    "float32": "TYPE_FP32",
    "float16": "TYPE_FP16",
    "bfloat16": "TYPE_BF16",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "int8": "TYPE_INT8",
    "uint8": "TYPE_UINT8",
    "bool": "TYPE_BOOL",
}


@dataclass(frozen=True)
class TritonOptions:
    """How Triton serves the engine.

    Args:
        name: of the model.
        instances: execution contexts on each GPU.
        gpus: indices; empty for all.
        max_queue_delay_us: microseconds that a request may wait for others to share its batch.
        cuda_graphs: the backend captures and replays CUDA graphs.
        weight_streaming_budget: bytes of weights on the GPU, or "auto"; None keeps all. The server
            then needs this package in its Python.

    Raises:
        ArgumentError: the name is no file name, or a number is out of range.
    """

    name: str
    instances: int = 1
    gpus: tuple[int, ...] = ()
    max_queue_delay_us: int = 0
    cuda_graphs: bool = False
    weight_streaming_budget: int | Literal["auto"] | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", self.name):
            raise ArgumentError(
                "name", expected="letters, digits, '_', '-' and '.'", actual=repr(self.name)[:80]
            )
        if self.instances < 1 or self.max_queue_delay_us < 0 or min(self.gpus, default=0) < 0:
            raise ArgumentError(
                "instances, gpus and max_queue_delay_us",
                expected="at least 1, and no negative number",
                actual=f"{self.instances}, {self.gpus}, {self.max_queue_delay_us}",
            )


@dataclass(frozen=True)
class TritonRepository:
    """What was written.

    Args:
        directory: the model repository.
        config: the model's config.pbtxt.
        checked: whether Triton's own schema parsed it; False where tritonclient is not installed.
        command: of the server.
    """

    directory: Path
    config: Path
    checked: bool
    command: str


def write_repository(engine: Path, directory: Path, options: TritonOptions) -> TritonRepository:
    """Write directory/NAME: the engine, linked or copied, its config and a README.

    Raises:
        EngineError: the engine or its manifest is missing or damaged, or of TensorRT for RTX.
        ArgumentError: the repository has a model of this name, or a budget or CUDA graphs are asked
            for that the engine cannot have.
        ParoError: a file cannot be written.
    """
    manifest = read_manifest(found_manifest(engine))
    if manifest.tensorrt.flavour is not Flavour.TENSORRT:
        raise EngineError(
            str(engine), expected="an engine of TensorRT, which Triton's backend loads",
            actual=f"one of {manifest.tensorrt.flavour.label}",
            remedy="paro-trt build --tensorrt tensorrt",
        )  # fmt: skip
    if not engine.is_file() or engine.stat().st_size != manifest.engine.bytes:
        raise EngineError(
            str(engine), expected=f"the engine of its manifest, {manifest.engine.bytes} bytes",
            actual="another file" if engine.is_file() else "no such file",
            remedy="build the engine again: paro-trt build",
        )  # fmt: skip
    _check_streaming(manifest, options)
    config = config_text(manifest, options)
    checked = check_config(config)
    model = directory / options.name
    if model.exists():
        raise ArgumentError(
            str(model), expected="no model of this name", actual="one", remedy="choose another name"
        )
    streams = options.weight_streaming_budget is not None
    command = server_command(manifest, directory, streams=streams)
    (model / VERSION).mkdir(parents=True)
    texts = {CONFIG_FILE: config, README_FILE: _readme(manifest, options, command)}
    if streams:
        engine_name, code = STREAMING_FILES
        target = model / VERSION / engine_name
        _link(engine, target)
        _link(found_manifest(engine), manifest_path(target))
        texts[f"{VERSION}/{code}"] = _MODEL_PY
    else:
        _link(engine, model / VERSION / MODEL_FILE)
    for name, text in texts.items():
        with atomic_write(model / name) as file:
            file.write(text.encode())
    return TritonRepository(directory, model / CONFIG_FILE, checked, command)


def config_text(manifest: EngineManifest, options: TritonOptions) -> str:
    """config.pbtxt. Requests share a batch; each sample has its own mask_bin."""
    batch = {entry.max[0] for entry in manifest.inputs if entry.shape[:1] == (BATCH,)}
    batched = all(entry.shape[:1] == (BATCH,) for entry in (*manifest.inputs, *manifest.outputs))
    streams = options.weight_streaming_budget is not None
    lines = [
        f'name: "{options.name}"',
        f'backend: "{STREAMING_BACKEND if streams else BACKEND}"',
        f'default_model_filename: "{STREAMING_FILES[1] if streams else MODEL_FILE}"',
        f"max_batch_size: {max(batch) if batched else 0}",
    ]
    for kind, entries in (("input", manifest.inputs), ("output", manifest.outputs)):
        lines += [line for entry in entries for line in _tensor(kind, entry, batched)]
    gpus = f" gpus: [ {', '.join(map(str, options.gpus))} ]" if options.gpus else ""
    # The backend uses the profiles that are named here, and chooses among them by the shapes.
    names = ", ".join(f'"{index}"' for index in range(len(manifest.profiles)))
    profiles = f" profile: [ {names} ]" if names and not streams else ""
    group = f"count: {options.instances} kind: KIND_GPU{gpus}{profiles}"
    lines.append(f"instance_group [ {{ {group} }} ]")
    if batched:
        delay = f" max_queue_delay_microseconds: {options.max_queue_delay_us} "
        lines.append(f"dynamic_batching {{{delay if options.max_queue_delay_us else ''}}}")
    if options.cuda_graphs:
        lines.append("optimization { cuda { graphs: true } }")
    facts = {
        "paro_model_class": manifest.info.model.class_name,
        "paro_plan_hash": manifest.info.plan_hash or "",
        "paro_bin_boundaries": ",".join(map(str, manifest.info.bin_boundaries or ())),
    }
    if streams:
        facts["weight_streaming_budget"] = str(options.weight_streaming_budget)
    lines += [
        f'parameters {{ key: "{name}" value {{ string_value: "{value}" }} }}'
        for name, value in facts.items()
    ]
    return "\n".join(lines) + "\n"


def check_config(text: str) -> bool:
    """Parse a config with Triton's schema. False if tritonclient is not installed.

    Raises:
        EngineError: the schema refuses it.
    """
    try:
        text_format = import_module("google.protobuf.text_format")
        schema = import_module("tritonclient.grpc.model_config_pb2")
    except ImportError:
        return False
    try:
        text_format.Parse(text, schema.ModelConfig())
    except text_format.ParseError as error:
        raise EngineError(
            CONFIG_FILE, expected="a model configuration of Triton's schema",
            actual=str(error)[:200],
        ) from error  # fmt: skip
    return True


def server_command(manifest: EngineManifest, directory: Path, *, streams: bool = False) -> str:
    """The command that starts the server. It loads the plugin if the engine needs it.

    A model that streams weights loads the plugin itself.
    """
    words = ["tritonserver", f"--model-repository={directory.resolve()}"]
    if manifest.plugin is not None and not streams:
        library = f"libparo_{AUTOREG_LIBRARY}.so"
        words.append(f"--backend-config={BACKEND},plugins=/path/to/{library}")
    return " ".join(words)


def _check_streaming(manifest: EngineManifest, options: TritonOptions) -> None:
    budget = options.weight_streaming_budget
    if budget is None:
        return
    manifest.require_streaming(budget)
    if options.cuda_graphs:
        raise ArgumentError(
            "cuda_graphs",
            expected="none: an engine that streams its weights cannot be captured",
            actual="CUDA graphs and a weight streaming budget",
        )


def _tensor(kind: str, entry: EngineTensor, batched: bool) -> list[str]:
    shape = entry.shape[1:] if batched else entry.shape
    dims: list[Any] = [-1 if isinstance(size, str) else size for size in shape]
    # A request's tensor has at least one size in addition to the batch; the engine's may have none.
    reshape = "" if dims else " reshape: { shape: [ ] }"
    shown = ", ".join(map(str, dims or [1]))
    data_type = DATA_TYPES[entry.dtype]
    return [
        f'{kind} [ {{ name: "{entry.name}" data_type: {data_type} dims: [ {shown} ]{reshape} }} ]'
    ]


def _link(engine: Path, target: Path) -> None:
    try:
        os.link(engine, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(engine, target)


def _readme(manifest: EngineManifest, options: TritonOptions, command: str) -> str:
    boundaries = manifest.info.bin_boundaries or ()
    edges = ", ".join(f"{edge:g}" for edge in boundaries) or "none"
    plugin = ""
    if manifest.plugin is not None:
        plugin = f"""
The plugin must be the one that the engine was built with: {manifest.plugin.file},
{manifest.plugin.name}, SHA-256 {manifest.plugin.sha256}, next to libparo_{AUTOREG_LIBRARY}.so.
"""
    return f"""# {options.name}

Serve it with a Triton whose TensorRT is {manifest.tensorrt.version},
on a GPU of SM {manifest.gpu.sm}:

    {command}
{plugin}
`mask_bin` of each sample is the number of these timesteps that its own timestep is below: {edges}.
"""
