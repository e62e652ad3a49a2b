"""Stub TensorRT and CUDA, a plugin library, and small exported files to build from."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto

from paro_trt.engine import BuildSettings
from paro_trt.engine.build import build_engine
from paro_trt.onnx_export import Body
from paro_trt.onnx_export.bodies import attention_function
from paro_trt.op.native import library_path
from paro_trt.op.spec import DOMAIN, INPUTS, OP_TYPE
from tests.native_builds import ROOT
from tests.tensorrt.environments import rtx_python
from tests.tensorrt.harness import emulated_build

from .running import SIZES
from .stub_cuda import StubCuda
from .stub_tensorrt import SURFACE, StubTensorRt

VERSIONS = list(SURFACE)


@dataclass
class Machine:
    """A pretended machine: its GPU, its TensorRT and its plugin."""

    cuda: StubCuda
    trt: StubTensorRt
    plugin: Path


@pytest.fixture(params=VERSIONS)
def machine(request, tmp_path, monkeypatch):
    """A machine with an SM 89 GPU, for each TensorRT release."""
    yield from make_machine(request.param, tmp_path, monkeypatch)


@pytest.fixture
def newest(tmp_path, monkeypatch):
    """The same with the newest release only."""
    yield from make_machine(VERSIONS[-1], tmp_path, monkeypatch)


def make_machine(version, tmp_path, monkeypatch):
    """Put stubs where the package looks for TensorRT and the driver of CUDA.

    The library of CPU kernels takes the plugin's place: it exports the same C ABI.
    """
    pytest.importorskip("cuda.core", reason="engines need cuda.core")
    stub_cuda = StubCuda()
    trt = StubTensorRt(version, stub_cuda)
    monkeypatch.setitem(sys.modules, "tensorrt", trt.module())
    plugin = tmp_path / "lib" / "libparo_attention.so"
    plugin.parent.mkdir()
    shutil.copy(library_path("cpu"), plugin)
    monkeypatch.setenv("PARO_LIBRARY_DIR", str(plugin.parent))
    yield Machine(stub_cuda, trt, plugin)


@pytest.fixture(scope="session")
def half_onnx(tmp_path_factory):
    """A float16 model with one PAROAttention node added to small_onnx's arithmetic."""
    path = tmp_path_factory.mktemp("half") / "model.onnx"
    onnx.save(with_attention(TensorProto.FLOAT16), path)
    return path


@pytest.fixture
def engine_file(newest, half_onnx, tmp_path):
    """An engine with weight streaming, built on the newest release."""
    path = tmp_path / "model.engine"
    build_engine(half_onnx, path, BuildSettings(sizes=SIZES, weight_streaming=True))
    newest.cuda.calls.clear()
    return path


def with_attention(float_type=TensorProto.FLOAT16, body=Body.DENSE):
    """small_onnx with a PAROAttention node of 128 tokens, 2 heads whose result is added to it."""
    import numpy as np
    from onnx import helper, numpy_helper

    from paro_trt.op.mask import pack_block_mask, tile_order
    from tests.support.small_onnx import INFO, small_onnx

    model = small_onnx(INFO, float_type, batch="B")
    rng = np.random.default_rng()
    mask = pack_block_mask(np.ones((3, 2, 2, 2), dtype=bool))
    affine = np.stack([np.zeros((2, 64)), np.ones((2, 64))] * 2).astype(np.float32)
    constants = {
        "token_order": np.arange(128, dtype=np.int32)[None],
        "head_order": np.zeros(2, np.int32),
        "block_mask": mask,
        "tile_order": tile_order(mask),
        "channel_affine": affine,
        "tokens_shape": np.array([-1, 128, 2, 64]),
        "key_tokens": np.array([128], np.int32),
        "weights": rng.normal(0.1, 0.2, (16, 128)).astype(
            helper.tensor_dtype_to_np_dtype(float_type)
        ),
        "latent_shape": np.array([-1, 4, 2, 16, 16]),
        "flat_shape": np.array([-1, 128, 16]),
    }
    graph = model.graph
    graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in constants.items())
    last = graph.node[-1]
    last.output[0] = "sample_before"
    graph.node.extend(
        [
            helper.make_node("Reshape", ["hidden_states", "flat_shape"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weights"], ["projected"]),
            helper.make_node("Reshape", ["projected", "tokens_shape"], ["qkv"]),
            helper.make_node("Shape", ["mask_bin"], ["batch_size"]),
            helper.make_node("Expand", ["key_tokens", "batch_size"], ["key_length"]),
            helper.make_node(
                OP_TYPE,
                [
                    {"query": "qkv", "key": "qkv", "value": "qkv"}.get(entry.name, entry.name)
                    for entry in INPUTS
                ],
                ["attended"],
                name=f"blocks.0.attn1/{OP_TYPE}",
                domain=DOMAIN,
                scale=0.0, block_q=64, block_k=64, qk_bits=8, pv_bits=8, pool_dropped=0,
                plugin_version="1", plugin_namespace="",
            ),
            helper.make_node("Slice", ["attended", "zero", "eight", "three"], ["part"]),
            helper.make_node("ReduceMean", ["attended", "all_axes"], ["mean"], keepdims=1),
            helper.make_node("Reshape", ["mean", "mean_shape"], ["mean_5d"]),
            helper.make_node("Add", ["sample_before", "mean_5d"], ["sample"]),
        ]
    )  # fmt: skip
    graph.initializer.extend(
        numpy_helper.from_array(np.array(v), k)
        for k, v in {
            "zero": [0], "eight": [8], "three": [3], "all_axes": [1, 2, 3],
            "mean_shape": [-1, 1, 1, 1, 1],
        }.items()
    )  # fmt: skip
    model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    if body is not Body.NONE:
        model.functions.append(attention_function(body, 18))
    return model


@dataclass(frozen=True)
class RtxBuild:
    """The result of a build by TensorRT for RTX.

    Args:
        path: the engine.
        manifest: its manifest, as JSON.
        complaints: warnings and errors of TensorRT's log.
        said: what the process wrote to standard error, the plugin's refusals among it.
    """

    path: Path
    manifest: dict[str, Any]
    complaints: list[str]
    said: str


@pytest.fixture(scope="session")
def plugin_folder(tmp_path_factory):
    """A folder for PARO_LIBRARY_DIR: the emulated kernels' plugin takes the place of CUDA's."""
    build, folder = emulated_build(), tmp_path_factory.mktemp("plugin")
    shutil.copy(build.emulated_library, folder / "libparo_attention.so")
    return folder


@pytest.fixture
def build_with_rtx(plugin_folder, tmp_path) -> Callable[..., RtxBuild]:
    """`build_with_rtx(onnx_file, sm, environment={}, **settings)`: a real build around the plugin,
    with no GPU, in a process of its own. The test fails where that does."""
    python = rtx_python()

    def build(onnx_file: Path, sm: int, *, environment=None, **settings) -> RtxBuild:
        path = tmp_path / f"{onnx_file.stem}-{sm}.engine"
        words = [python, "-m", "tests.engine.rtx_process", onnx_file, path, sm]
        done = subprocess.run(
            [*map(str, words), json.dumps(settings)],
            capture_output=True, text=True, cwd=ROOT, timeout=500,
            env=os.environ | {"PARO_LIBRARY_DIR": str(plugin_folder)} | (environment or {}),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-4000:] or f"ended with {done.returncode}"
        return RtxBuild(path, **json.loads(done.stdout.splitlines()[-1]), said=done.stderr)

    return build
