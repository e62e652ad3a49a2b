"""libparo_onnxruntime: its kernels bit for bit, its ABI against the runtime and its header."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from paro_trt.onnx_export import Body
from paro_trt.op import native
from paro_trt.op.spec import AttentionConfig, AttentionInputs, op_inputs
from paro_trt.runtime.custom_op import register_custom_op
from tests.onnx_export.single_node import single_node_model
from tests.support.cases import (
    BIT_PAIRS,
    CASES,
    SMOOTHED_CASES,
    VERSION_2_CASES,
    OpCase,
    node_inputs,
    random_inputs,
)

SOURCES = Path(__file__).parents[2] / "plugins/onnxruntime"
FLOATS = ("query", "key", "value")
EVERYTHING = OpCase(
    "everything", 203, batch=3, heads=4, kv_heads=2, bins=2, key_length=(203, 77, 0),
    empty_rows=True, config=AttentionConfig(block_q=128, block_k=64),
)  # fmt: skip


def native_session(model: onnx.ModelProto, threads: int | None = 2) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    register_custom_op(options, threads)
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def node_model(inputs: AttentionInputs, config: AttentionConfig) -> onnx.ModelProto:
    """One node without its function; graph inputs and output are float32 where it has bfloat16."""
    wide = inputs
    if inputs.query.dtype is torch.bfloat16:
        wide = AttentionInputs(*(x.float() for x in inputs[:3]), *inputs[3:])
    model = single_node_model(Body.SPARSE, wide, config)
    del model.functions[:]
    if wide is not inputs:
        cast_floats_to_bfloat16(model)
    return model


def cast_floats_to_bfloat16(model: onnx.ModelProto) -> None:
    (node,) = model.graph.node
    casts = []
    for index, name in enumerate(FLOATS):
        node.input[index] = f"{name}_narrow"
        casts.append(helper.make_node("Cast", [name], [f"{name}_narrow"], to=TensorProto.BFLOAT16))
    node.output[0] = "output_narrow"
    back = helper.make_node("Cast", ["output_narrow"], ["output"], to=TensorProto.FLOAT)
    nodes = [*casts, onnx.NodeProto.FromString(node.SerializeToString()), back]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def feed_of(inputs: AttentionInputs, version: int = 1) -> dict[str, np.ndarray]:
    narrow = inputs.query.dtype is torch.bfloat16
    tensors = zip(op_inputs(version), node_inputs(inputs, version), strict=True)
    return {
        entry.name: (tensor.float() if narrow and entry.name in FLOATS else tensor).numpy()
        for entry, tensor in tensors
    }


def assert_computes_what_the_c_abi_does(case: OpCase, seed: int) -> None:
    inputs = random_inputs(case, seed)
    expected = native.load_library(native.library_path("cpu")).forward(inputs, case.config, 2)
    session = native_session(node_model(inputs, case.config))
    (output,) = session.run(None, feed_of(inputs, case.config.version))
    assert session.get_outputs()[0].shape == ["B", *inputs.query.shape[1:]]
    assert torch.equal(torch.from_numpy(output).to(expected.dtype), expected)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_case_bit_for_bit(case: OpCase, fresh_seed: int) -> None:
    assert_computes_what_the_c_abi_does(case, fresh_seed)


@pytest.mark.parametrize("case", [*VERSION_2_CASES, *SMOOTHED_CASES], ids=lambda case: case.name)
def test_every_case_of_version_2_bit_for_bit(case: OpCase, fresh_seed: int) -> None:
    assert_computes_what_the_c_abi_does(case, fresh_seed)


def _set(model: onnx.ModelProto, **values: int | str) -> None:
    (node,) = model.graph.node
    for name, value in values.items():
        entry = next(entry for entry in node.attribute if entry.name == name)
        entry.CopyFrom(helper.make_attribute(name, value))


def _without_added_inputs(model: onnx.ModelProto) -> None:
    del model.graph.node[0].input[10:]
    del model.graph.input[10:]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_without_added_inputs, "expected 14 inputs with plugin_version 2, got 10"),
        (lambda m: _set(m, plugin_version="1"), "expected 0 with plugin_version 1, got 1, 1, 1, 1"),
        (lambda m: _set(m, plugin_version="3"), "expected the text 1 or 2, got 3"),
        (lambda m: _set(m, plugin_version="2" * 99), "expected the text 1 or 2, got another"),
        (lambda m: _set(m, routing=2), "routing: expected a value in 0..1, got 2"),
        (lambda m: _set(m, smoothing=2), "smoothing: expected a value in 0..1, got 2"),
        (lambda m: _set(m, qk_bits=8), "smoothing: expected 0 where qk_bits is not 4, got 1"),
    ],
    ids=[
        "inputs",
        "features in version 1",
        "version 3",
        "long text",
        "routing of 2",
        "smoothing of 2",
        "smoothing of 8 bits",
    ],
)
def test_mixes_of_versions_are_refused(
    spoil: Callable[[onnx.ModelProto], None], message: str
) -> None:
    case = next(case for case in SMOOTHED_CASES if case.name == "smoothed-all")
    inputs = random_inputs(case, 0)
    model = node_model(inputs, case.config)
    spoil(model)
    names = {entry.name for entry in model.graph.input}
    feed = {n: x for n, x in feed_of(inputs, case.config.version).items() if n in names}
    with pytest.raises(Exception, match=message):
        native_session(model).run(None, feed)


def test_version_2_without_its_features_is_version_1(fresh_seed: int) -> None:
    inputs = random_inputs(EVERYTHING, fresh_seed)
    model = node_model(inputs, EVERYTHING.config)
    (expected,) = native_session(model).run(None, feed_of(inputs))
    (node,) = model.graph.node
    for entry in op_inputs(2)[len(node.input) :]:
        node.input.append(entry.name)
        shape = [None] * len(entry.shape)
        model.graph.input.append(
            helper.make_tensor_value_info(entry.name, TensorProto.INT32, shape)
        )
    _set(model, plugin_version="2")
    next(entry for entry in model.opset_import if entry.domain == "paro").version = 2
    (output,) = native_session(model).run(None, feed_of(inputs, 2))
    assert np.array_equal(output, expected)


@pytest.mark.parametrize("bits", BIT_PAIRS, ids=lambda b: f"qk{b[0]}-pv{b[1]}")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_every_type_and_width_bit_for_bit(
    bits: tuple[int, int], dtype: torch.dtype, fresh_seed: int
) -> None:
    case = replace(EVERYTHING, dtype=dtype).with_bits(*bits, pool_dropped=bits[0] != 16)
    assert_computes_what_the_c_abi_does(case, fresh_seed)


def test_scale_is_the_node_s(fresh_seed: int) -> None:
    config = replace(EVERYTHING.config, scale=0.0371)
    assert_computes_what_the_c_abi_does(replace(EVERYTHING, config=config), fresh_seed)


def test_output_shape_is_inferred() -> None:
    """A file may leave the shape of the node's output open."""
    inputs = random_inputs(EVERYTHING, 0)
    model = node_model(inputs, EVERYTHING.config)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    session = native_session(model)
    assert session.get_outputs()[0].shape == ["B", *inputs.query.shape[1:]]


@pytest.mark.parametrize("threads", [1, 5])
def test_op_starts_the_threads_that_are_asked_for(threads: int) -> None:
    case = OpCase("long", 4096, density=0.5)
    inputs = random_inputs(case, 0)
    session = native_session(node_model(inputs, case.config), threads)
    feed = feed_of(inputs)
    running = threading.Thread(target=session.run, args=(None, feed))
    most = before = len(os.listdir("/proc/self/task"))
    running.start()
    while running.is_alive():
        most = max(most, len(os.listdir("/proc/self/task")))
    assert most == before + threads


@pytest.mark.parametrize("entry", ["-1", "4097", "2.0", "two", "", "1" * 200])
def test_unreadable_number_of_threads(entry: str) -> None:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("paro.threads", entry)
    with pytest.raises(Exception, match=r"paro\.threads: expected a whole number in 0\.\.4096"):
        options.register_custom_ops_library(str(native.library_path("onnxruntime")))


def test_exports_its_entry_point_only() -> None:
    listing = subprocess.run(
        ["nm", "-D", "--defined-only", str(native.library_path("onnxruntime"))],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert [line.split()[-1] for line in listing.stdout.splitlines()] == ["RegisterCustomOps"]


class ApiBase(ctypes.Structure):
    """OrtApiBase."""

    _fields_ = (
        ("get_api", ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_uint32)),
        ("version", ctypes.CFUNCTYPE(ctypes.c_size_t)),  # the address of a string
    )


def api_version() -> int:
    (line,) = (x for x in (SOURCES / "ort_abi.h").read_text().splitlines() if "kApiVersion =" in x)
    return int(line.split("=")[1].strip(" ;"))


def test_installed_runtime_has_the_interface() -> None:
    (runtime,) = Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so*")
    library = ctypes.CDLL(str(runtime))
    library.OrtGetApiBase.restype = ctypes.POINTER(ApiBase)
    base = library.OrtGetApiBase().contents
    assert ctypes.string_at(base.version()).decode() == onnxruntime.__version__
    assert base.get_api(api_version())
    newest = int(onnxruntime.__version__.split(".")[1])
    assert not base.get_api(newest + 1)


def test_older_runtime_is_refused_with_its_version() -> None:
    """A fake runtime, whose table has only CreateStatus."""
    messages: list[tuple[int, str]] = []

    @ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_int, ctypes.c_char_p)
    def create_status(code: int, message: bytes) -> int:
        messages.append((code, message.decode()))
        return 1

    table = (ctypes.c_void_p * 1)(ctypes.cast(create_status, ctypes.c_void_p))
    get_api = ApiBase._fields_[0][1](lambda version: ctypes.addressof(table) if version < 9 else 0)
    version = ctypes.create_string_buffer(b"1.8.1")
    base = ApiBase(get_api, ApiBase._fields_[1][1](lambda: ctypes.addressof(version)))
    register = ctypes.CDLL(str(native.library_path("onnxruntime"))).RegisterCustomOps
    register.restype = ctypes.c_void_p
    assert register(None, ctypes.byref(base))
    assert messages == [(9, "ONNX Runtime: expected version 1.17 or later, got 1.8.1")]


def compile_check(header_directory: Path, sources: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            shutil.which("g++") or "g++", "-std=c++20", "-fsyntax-only", "-w",
            f"-isystem{header_directory}", str(sources / "abi_check.cpp"),
        ],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


@pytest.fixture
def real_header() -> Path:
    """The directory of onnxruntime_c_api.h."""
    own = os.environ.get("ORT_INCLUDE_DIR")
    places = [Path(own)] if own else [Path("/usr/include"), Path("/usr/local/include")]
    for place in places:
        for directory in (place, place / "onnxruntime"):
            if (directory / "onnxruntime_c_api.h").is_file():
                return directory
    pytest.skip("no onnxruntime_c_api.h here; set ORT_INCLUDE_DIR to the directory of one")


def test_declarations_match_the_real_header(real_header: Path, tmp_path: Path) -> None:
    checked = compile_check(real_header, SOURCES)
    assert checked.returncode == 0, checked.stderr
    text = (SOURCES / "ort_abi.h").read_text()
    shifted = text.replace("slots_52[9]", "slots_52[10]").replace("slots_63[2]", "slots_63[1]")
    shifted = shifted.replace("(GetDimensionsCount, 61)", "(GetDimensionsCount, 62)")
    shifted = shifted.replace("(GetDimensions, 62)", "(GetDimensions, 63)")
    reshaped = text.replace("int64_t* sizes, size_t count);", "int64_t* sizes);")
    for name, mutant in {"shifted": shifted, "reshaped": reshaped}.items():
        directory = tmp_path / name
        directory.mkdir()
        shutil.copy(SOURCES / "abi_check.cpp", directory)
        (directory / "ort_abi.h").write_text(mutant)
        failed = compile_check(real_header, directory)
        assert failed.returncode != 0, name
        assert "GetDimensions" in failed.stderr
