"""Model repositories for Triton: parsed by its real schema if tritonclient is installed."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from types import ModuleType

import numpy as np
import pytest
import torch

from paro_trt.engine import BuildSettings, EngineError, SizeRange
from paro_trt.engine.build import build_engine
from paro_trt.engine.manifest_file import manifest_path
from paro_trt.engine.triton import TritonOptions, config_text, write_repository
from paro_trt.errors import ArgumentError
from tests.tensorrt.environments import tritonclient_folder

from .running import SIZES, expected, random_inputs

PARSE = """
import json, sys
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2
config = text_format.Parse(sys.stdin.read(), model_config_pb2.ModelConfig())
print(json.dumps(json_format.MessageToDict(config, preserving_proto_field_name=True)))
"""


@pytest.fixture(scope="module")
def schema():
    """Parse a config by Triton's schema, as a dict; skips without tritonclient."""
    target = tritonclient_folder()

    def parse(text):
        done = subprocess.run(
            [sys.executable, "-c", PARSE], input=text, capture_output=True, text=True,
            check=False, env={"PYTHONPATH": str(target)},
        )  # fmt: skip
        return json.loads(done.stdout) if done.returncode == 0 else done.stderr

    return parse


@pytest.fixture
def engine(newest, half_onnx, tmp_path):  # noqa: ARG001
    path = tmp_path / "model.engine"
    sizes = {"B": SizeRange(1, 2, 4), "text_tokens": SizeRange(1, 8, 32)}
    build_engine(half_onnx, path, BuildSettings(sizes=sizes))
    return path


def test_repository_of_an_engine(engine, schema, tmp_path):
    options = TritonOptions("wan", 2, (0, 1), 500, cuda_graphs=True)
    written = write_repository(engine, tmp_path / "repo", options)
    model = tmp_path / "repo" / "wan"
    assert (model / "1" / "model.plan").read_bytes() == engine.read_bytes()
    config = schema(written.config.read_text())
    assert (config["name"], config["backend"], config["max_batch_size"]) == ("wan", "tensorrt", 4)
    assert config["default_model_filename"] == "model.plan"
    assert config["input"] == [
        {"name": "hidden_states", "data_type": "TYPE_FP16", "dims": ["4", "2", "16", "16"]},
        {"name": "timestep", "data_type": "TYPE_FP32", "dims": ["1"], "reshape": {}},
        {"name": "encoder_hidden_states", "data_type": "TYPE_FP16", "dims": ["-1", "16"]},
        {"name": "mask_bin", "data_type": "TYPE_INT32", "dims": ["1"], "reshape": {}},
    ]
    assert [entry["name"] for entry in config["output"]] == ["sample"]
    assert config["instance_group"] == [{"kind": "KIND_GPU", "count": 2, "gpus": [0, 1]}]
    assert config["dynamic_batching"] == {"max_queue_delay_microseconds": "500"}
    assert config["optimization"] == {"cuda": {"graphs": True}}
    assert config["parameters"]["paro_bin_boundaries"] == {"string_value": "700.0,250.0"}
    class_name = config["parameters"]["paro_model_class"]["string_value"]
    assert class_name == "WanTransformer3DModel"
    readme = (model / "README.md").read_text()
    assert written.command in readme
    assert "plugins=/path/to/libparo_attention_autoreg.so" in readme


def test_schema_refuses_what_triton_does_not_know(engine, schema):
    from paro_trt.engine import read_manifest

    text = config_text(read_manifest(manifest_path(engine)), TritonOptions("wan"))
    assert schema(text)["name"] == "wan"
    assert "no field named" in schema(text + "cuda_graph: true\n")


def test_bad_input_writes_nothing(engine, tmp_path):
    repository = tmp_path / "repo"
    for name in ("", "../out", "a/b", 'a"b'):
        with pytest.raises(ArgumentError, match="name"):
            TritonOptions(name)
    with pytest.raises(ArgumentError, match="at least 1"):
        TritonOptions("wan", instances=0)
    document = json.loads(manifest_path(engine).read_text())
    document["tensorrt"]["flavour"] = "tensorrt_rtx"
    content = manifest_path(engine).read_text()
    manifest_path(engine).write_text(json.dumps(document))
    with pytest.raises(EngineError, match="TensorRT for RTX"):
        write_repository(engine, repository, TritonOptions("wan"))
    manifest_path(engine).write_text(content)
    engine.write_bytes(b"another")
    with pytest.raises(EngineError, match="another file"):
        write_repository(engine, repository, TritonOptions("wan"))
    manifest_path(engine).unlink()
    with pytest.raises(EngineError, match="no such file"):
        write_repository(engine, repository, TritonOptions("wan"))
    assert not repository.exists()


def test_a_model_of_this_name_is_kept(engine, tmp_path):
    write_repository(engine, tmp_path / "repo", TritonOptions("wan"))
    with pytest.raises(ArgumentError, match="choose another name"):
        write_repository(engine, tmp_path / "repo", TritonOptions("wan"))


@pytest.fixture
def streaming_engine(newest, half_onnx, tmp_path):  # noqa: ARG001
    path = tmp_path / "streaming.engine"
    build_engine(half_onnx, path, BuildSettings(sizes=SIZES, weight_streaming=True))
    return path


class PbTensor:
    """A tensor of Triton's Python backend."""

    def __init__(self, name, tensor):
        self.name, self.tensor = name, tensor

    def to_dlpack(self):
        return torch.utils.dlpack.to_dlpack(self.tensor)

    @classmethod
    def from_dlpack(cls, name, tensor):
        return cls(name, torch.utils.dlpack.from_dlpack(tensor))


class PbUtils(ModuleType):
    """What the server gives its Python models to import."""

    Tensor, TritonError = PbTensor, str

    @staticmethod
    def get_input_tensor_by_name(request, name):
        return PbTensor(name, torch.from_numpy(request[name]))

    @staticmethod
    def InferenceResponse(tensors, error=None):  # noqa: N802 (the server's name)
        return error or {tensor.name: tensor.tensor.numpy() for tensor in tensors}


def test_weights_are_streamed_by_the_python_backend(
    newest, streaming_engine, schema, half_onnx, tmp_path, monkeypatch, fresh_seed
):
    options = TritonOptions("wan", weight_streaming_budget=300)
    written = write_repository(streaming_engine, tmp_path / "repo", options)
    assert "plugins=" not in written.command
    config = schema(written.config.read_text())
    assert (config["backend"], config["default_model_filename"]) == ("python", "model.py")
    folder = written.config.parent
    names = {"model.engine", "model.engine.json", "model.py"}
    assert {file.name for file in (folder / "1").iterdir()} == names
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", PbUtils("pb_utils"))
    scope = runpy.run_path(str(folder / "1" / "model.py"))
    model = scope["TritonPythonModel"]()
    arguments = {
        "model_config": json.dumps(config), "model_repository": str(folder), "model_version": "1",
        "model_instance_device_id": "0",
    }  # fmt: skip
    model.initialize(arguments)
    assert newest.trt.engine.weight_streaming_budget_v2 == 300
    requests = [random_inputs(batch, fresh_seed + batch) for batch in (1, 2)]
    responses = model.execute(requests)
    assert newest.trt.executions == 1
    for request, response in zip(requests, responses, strict=True):
        np.testing.assert_array_equal(response["sample"], expected(half_onnx, request))
    (refused,) = model.execute([random_inputs(5)])
    assert "build an engine for B = 5" in refused
    model.finalize()
    assert not newest.trt.loaded


def test_what_cannot_be_streamed(engine, streaming_engine, tmp_path):
    for budget in (300, "auto"):
        options = TritonOptions("wan", weight_streaming_budget=budget)
        with pytest.raises(ArgumentError, match="--weight-streaming"):
            write_repository(engine, tmp_path / "repo", options)
    options = TritonOptions("wan", weight_streaming_budget="auto", cuda_graphs=True)
    with pytest.raises(ArgumentError, match="cannot be captured"):
        write_repository(streaming_engine, tmp_path / "repo", options)
    assert not (tmp_path / "repo").exists()


def test_every_profile_is_named(newest, half_onnx, schema, tmp_path):  # noqa: ARG001
    path = tmp_path / "several.engine"
    sizes = {**SIZES, "B": (SizeRange(1, 1, 1), SizeRange(2, 2, 4))}
    manifest = build_engine(half_onnx, path, BuildSettings(sizes=sizes)).manifest
    config = schema(config_text(manifest, TritonOptions("wan")))
    assert config["instance_group"][0]["profile"] == ["0", "1"]
    assert config["max_batch_size"] == 4
