"""Model repositories for Triton: parsed by its real schema if tritonclient is installed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from paro_trt.engine import BuildSettings, EngineError, SizeRange
from paro_trt.engine.build import build_engine
from paro_trt.engine.manifest import manifest_path
from paro_trt.engine.triton import TritonOptions, config_text, write_repository
from paro_trt.errors import ArgumentError
from tests.tensorrt.environments import tritonclient_folder

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
