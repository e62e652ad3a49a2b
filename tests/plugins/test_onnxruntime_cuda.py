"""libparo_onnxruntime_cuda on the emulated kernels, for want of a GPU.

Two builds of its sources: the one for the CUDA provider, driven through a table of ONNX Runtime's
interface made here, and one for the CPU provider, which the installed ONNX Runtime drives by the
same calls. Neither shows anything about CUDA's streams or memory.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import threading
from dataclasses import replace
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch

from paro_trt.errors import BackendUnavailableError
from paro_trt.onnx_export import Body
from paro_trt.op import native
from paro_trt.op.spec import AttentionConfig, AttentionInputs
from paro_trt.runtime import ort_session
from paro_trt.runtime.custom_op import NativeOp, register_custom_op
from tests.native_builds import PLUGINS, plugins_build
from tests.onnx_export.single_node import single_node_model
from tests.support.cases import OpCase, random_inputs

from .fake_onnxruntime import STREAM, FakeOnnxRuntime, FakeOp, RefusedError
from .test_onnxruntime_op import feed_of, node_model

CORE = "libparo_emulated.so"
CASE = OpCase(
    "small", 150, heads=4, kv_heads=2, bins=2, batch=2, key_length=(150, 77), dtype=torch.float16,
    config=AttentionConfig(block_q=64, block_k=64),
)  # fmt: skip
BITS = ((16, 16), (8, 8), (8, 4))


@pytest.fixture(scope="module")
def build() -> Path:
    """The build of the plugins with both ops and the emulated kernels."""
    names = ("paro_emulated", "paro_onnxruntime_emulated", "paro_onnxruntime_emulated_host")
    return plugins_build("plain", *names)


def op_in(folder: Path, build: Path, abi: int | None = native.ABI_VERSION) -> ctypes.CDLL:
    """The op for the CUDA provider, next to kernels of this ABI that remember the launch."""
    op = shutil.copy(build / "onnxruntime" / "libparo_onnxruntime_emulated.so", folder)
    if abi is not None:
        words = [
            "gcc", "-shared", "-fPIC", f"-I{PLUGINS / 'include'}", f"-DPARO_REPORTED_ABI={abi}",
            f'-DPARO_KERNELS="{build / "kernels" / CORE}"', "-o", folder / CORE,
            Path(__file__).with_name("recorder.c"), "-ldl",
        ]  # fmt: skip
        subprocess.run(words, check=True)
    return ctypes.CDLL(str(op))


@pytest.fixture(scope="module")
def op(build: Path, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return op_in(tmp_path_factory.mktemp("op"), build)


@pytest.fixture(scope="module")
def kernels(build: Path) -> native.NativeLibrary:
    """The kernels themselves, to compare with."""
    return native.NativeLibrary(build / "kernels" / CORE)


@pytest.fixture
def runtime() -> FakeOnnxRuntime:
    return FakeOnnxRuntime()


def overload(runtime: FakeOnnxRuntime, op: ctypes.CDLL, dtype: torch.dtype) -> FakeOp:
    (found,) = (entry for entry in runtime.register(op) if entry.takes(dtype))
    return found


def attributes(config: AttentionConfig) -> dict[str, float | int]:
    given = config.keywords()
    return {name: int(value) if name != "scale" else value for name, value in given.items()}


def recorded(op: ctypes.CDLL, name: str) -> int:
    core = ctypes.CDLL(str(Path(op._name).with_name(CORE)))
    return ctypes.c_void_p.in_dll(core, name).value or 0


def test_it_registers_for_the_cuda_provider_with_all_tensors_there(
    runtime: FakeOnnxRuntime, op: ctypes.CDLL
) -> None:
    ops = runtime.register(op)
    assert [entry.provider for entry in ops] == ["CUDAExecutionProvider"] * 3
    assert {entry.input_memory(index) for entry in ops for index in range(10)} == {0}
    assert runtime.calls == ["AddCustomOpDomain"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("bits", BITS, ids=str)
def test_the_kernels_result_in_the_provider_s_stream_and_memory(
    runtime: FakeOnnxRuntime,
    op: ctypes.CDLL,
    kernels: native.NativeLibrary,
    dtype: torch.dtype,
    bits: tuple[int, int],
    fresh_seed: int,
) -> None:
    case = replace(CASE, dtype=dtype).with_bits(*bits, pool_dropped=bits != (16, 16))
    inputs = random_inputs(case, fresh_seed)
    expected = kernels.forward(inputs, case.config)
    node = overload(runtime, op, dtype)
    runtime.calls.clear()
    actual = node.run(list(inputs.named_tensors().values()), attributes(case.config), repeat=2)
    assert torch.equal(actual, expected)
    assert runtime.calls == ["GetGPUComputeStream", "GetScratchBuffer", "Free"] * 2
    assert recorded(op, "last_stream") == STREAM
    needed = kernels.workspace_bytes(inputs, case.config)
    assert recorded(op, "last_bytes") == needed
    assert runtime.sizes == [needed + 255] * 2
    assert recorded(op, "last_workspace") == (runtime.last + 255) // 256 * 256
    assert (runtime.taken, runtime.allocators) == ({}, 0)


def test_without_a_stream_memory_is_not_a_stream_s(
    op: ctypes.CDLL, kernels: native.NativeLibrary, fresh_seed: int
) -> None:
    runtime, inputs = FakeOnnxRuntime(stream=None), random_inputs(CASE, fresh_seed)
    actual = overload(runtime, op, torch.float16).run(
        list(inputs.named_tensors().values()), attributes(CASE.config)
    )
    assert torch.equal(actual, kernels.forward(inputs, CASE.config))
    assert runtime.calls[-3:] == ["GetGPUComputeStream", "Alloc", "Free"]


def test_exhausted_memory_is_named_and_nothing_is_kept(op: ctypes.CDLL, fresh_seed: int) -> None:
    runtime, inputs = FakeOnnxRuntime(fails=1), random_inputs(CASE, fresh_seed)
    with pytest.raises(
        RefusedError, match=r"^1: memory: expected \d+ bytes of workspace, got none"
    ):
        overload(runtime, op, torch.float16).run(
            list(inputs.named_tensors().values()), attributes(CASE.config)
        )
    assert (runtime.taken, runtime.allocators) == ({}, 0)


def refused(
    runtime: FakeOnnxRuntime, op: ctypes.CDLL, inputs: AttentionInputs, **changed: float | int
) -> str:
    node = overload(runtime, op, inputs.query.dtype)
    with pytest.raises(RefusedError) as raised:
        node.run(list(inputs.named_tensors().values()), attributes(CASE.config) | changed)
    assert (runtime.taken, runtime.allocators) == ({}, 0)
    return str(raised.value)


def test_refusals_name_the_argument(
    runtime: FakeOnnxRuntime, op: ctypes.CDLL, fresh_seed: int
) -> None:
    """By the op, by the check of shapes that is linked into it, and by the kernels' library."""
    inputs = random_inputs(CASE, fresh_seed)
    assert "block_q: expected an INT attribute" in refused(runtime, op, inputs, block_q=64.0)
    assert refused(runtime, op, inputs, block_q=100).startswith("2: block_q")
    cut = inputs._replace(key_length=inputs.key_length[:1])
    assert refused(runtime, op, cut).startswith("2: key_length: expected shape [2]")
    wide = AttentionInputs(*(x.float() for x in inputs[:3]), *inputs[3:])
    said = "9: dtype: expected float16 or bfloat16, got float32"
    assert refused(runtime, op, wide) == said


def test_an_older_runtime_is_refused(op: ctypes.CDLL) -> None:
    with pytest.raises(
        RefusedError, match=r"^9: ONNX Runtime: expected version 1\.18 or later, got 1\.17"
    ):
        FakeOnnxRuntime(version=17).register(op)


def test_missing_kernels_are_named(build: Path, tmp_path: Path, runtime: FakeOnnxRuntime) -> None:
    alone = op_in(tmp_path, build, abi=None)
    with pytest.raises(
        RefusedError, match=rf"{CORE}: expected it next to this library, got: .*open"
    ):
        runtime.register(alone)


def test_kernels_of_another_abi_are_named(
    build: Path, tmp_path: Path, runtime: FakeOnnxRuntime
) -> None:
    other = op_in(tmp_path, build, abi=99)
    with pytest.raises(
        RefusedError,
        match=rf"C ABI version {native.ABI_VERSION}, got 99; install both files of one build",
    ):
        runtime.register(other)


def host_session(build: Path, folder: Path, inputs: AttentionInputs, config: AttentionConfig):
    """The same op on the CPU provider of the installed ONNX Runtime."""
    shutil.copy(build / "kernels" / CORE, folder)
    library = shutil.copy(build / "onnxruntime" / "libparo_onnxruntime_emulated_host.so", folder)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.register_custom_ops_library(str(library))
    model = node_model(inputs, config).SerializeToString()
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def test_the_installed_runtime_lends_its_memory(
    build: Path, tmp_path: Path, kernels: native.NativeLibrary, fresh_seed: int
) -> None:
    """Its allocator, its (missing) stream, several runs at a time."""
    case = CASE.with_bits(8, 8, pool_dropped=True)
    inputs = random_inputs(case, fresh_seed)
    session = host_session(build, tmp_path, inputs, case.config)
    feed, outputs = feed_of(inputs), {}

    def work(number: int) -> None:
        for _ in range(2):
            (outputs[number],) = session.run(None, feed)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = kernels.forward(inputs, case.config)
    assert len(outputs) == 3
    assert all(torch.equal(torch.from_numpy(output), expected) for output in outputs.values())


def test_a_node_without_the_cuda_provider_is_refused(
    build: Path, tmp_path: Path, fresh_seed: int
) -> None:
    """The installed ONNX Runtime takes the op, and falls back to nothing in its place."""
    inputs = random_inputs(replace(CASE, dtype=torch.float32), fresh_seed)
    shutil.copy(build / "kernels" / CORE, tmp_path)
    library = shutil.copy(build / "onnxruntime" / "libparo_onnxruntime_emulated.so", tmp_path)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.register_custom_ops_library(str(library))
    model = single_node_model(Body.SPARSE, inputs, CASE.config).SerializeToString()
    with pytest.raises(Exception, match="Could not find an implementation for PAROAttention"):
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="there is one"
)
def test_an_onnx_runtime_without_the_provider_is_named(tmp_path: Path, fresh_seed: int) -> None:
    inputs = random_inputs(CASE, fresh_seed)
    model = single_node_model(Body.SPARSE, inputs, CASE.config)
    path = tmp_path / "node.onnx"
    onnx.save(model, path)
    with pytest.raises(
        BackendUnavailableError,
        match=r"^backend cuda: expected an ONNX Runtime with the CUDAExecutionProvider, got .*"
        r"fix: .*pip install onnxruntime-gpu",
    ):
        ort_session(path, "cuda")


def test_the_library_for_the_provider_is_made_by_make_plugin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(native.LIBRARY_DIRECTORY_VARIABLE, str(tmp_path))
    with pytest.raises(BackendUnavailableError, match=r"libparo_onnxruntime_cuda\.so.*make plugin"):
        register_custom_op(onnxruntime.SessionOptions(), op=NativeOp.CUDA)
