"""Engines run through stub TensorRT and CUDA: what is checked, what is copied, what is replayed."""

from __future__ import annotations

import ctypes
import json
import threading

import numpy as np
import pytest
import torch

from paro_trt.engine import BuildSettings, EngineError, cuda
from paro_trt.engine.build import build_engine
from paro_trt.engine.manifest_file import manifest_path
from paro_trt.errors import ArgumentError, BackendUnavailableError
from paro_trt.runtime import open_session
from paro_trt.runtime.engine import Engine
from paro_trt.runtime.engine_context import DeviceMemory
from tests.engine import stub_runtime
from tests.engine.conftest import engine_file, half_onnx, machine, newest  # noqa: F401 (fixtures)
from tests.engine.running import SIZES, expected, random_inputs


class OnGpu:
    """A tensor in the memory that the stub takes for its GPU's."""

    def __init__(self, array, device=(2, 0)):
        self.array = array
        self.device = device
        self.streams = []

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, stream=None):
        self.streams.append(stream)
        capsule = self.array.__dlpack__()
        get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
        get_pointer.restype = ctypes.c_void_p
        get_pointer.argtypes = (ctypes.py_object, ctypes.c_char_p)
        address = get_pointer(capsule, b"dltensor")
        (ctypes.c_int32 * 2).from_address(address + 8)[:] = self.device
        return capsule


@pytest.mark.parametrize("batch", [1, 4])
def test_host_arrays_on_every_release(machine, half_onnx, tmp_path, batch, fresh_seed):  # noqa: F811
    path = tmp_path / "model.engine"
    build_engine(half_onnx, path, BuildSettings(sizes=SIZES))
    inputs = random_inputs(batch, fresh_seed)
    with Engine(path) as engine:
        outputs = engine.run(inputs)
        again = engine.run(inputs)
    assert list(outputs) == ["sample"]
    np.testing.assert_array_equal(outputs["sample"], expected(half_onnx, inputs))
    np.testing.assert_array_equal(again["sample"], outputs["sample"])
    assert not machine.cuda.allocations, "device memory is freed"


def test_session_interface(engine_file, half_onnx, fresh_seed):  # noqa: F811
    inputs = random_inputs(2, fresh_seed)
    with open_session(engine_file) as session:
        assert [spec.name for spec in session.inputs] == list(inputs)
        assert session.info.bin_boundaries == (700.0, 250.0)
        strided = {**inputs, "hidden_states": np.asfortranarray(inputs["hidden_states"])}
        outputs = session.run(strided)
    np.testing.assert_array_equal(outputs["sample"], expected(half_onnx, inputs))


def test_a_link_to_an_engine_is_the_engine(engine_file, half_onnx, tmp_path, fresh_seed):  # noqa: F811
    """Its manifest lies next to the file that is linked to, as in a cache of links."""
    link = tmp_path / "linked" / "other-name.engine"
    link.parent.mkdir()
    link.symlink_to(engine_file)
    inputs = random_inputs(2, fresh_seed)
    with Engine(link) as engine:
        sample = engine.run(inputs)["sample"]
    np.testing.assert_array_equal(sample, expected(half_onnx, inputs))


def test_tensors_on_the_gpu_are_not_copied(newest, engine_file, half_onnx, fresh_seed):  # noqa: F811
    arrays = random_inputs(2, fresh_seed)
    inputs = {name: OnGpu(array) for name, array in arrays.items()}
    target = OnGpu(np.zeros((2, 4, 2, 16, 16), np.float16))
    with Engine(engine_file) as engine:
        outputs = engine.run(inputs, {"sample": target})
        stream = inputs["timestep"].streams
    assert outputs["sample"] is target
    assert newest.cuda.copies == []
    assert stream
    assert stream[0] not in (None, 0)
    np.testing.assert_array_equal(target.array, expected(half_onnx, arrays))


def test_some_on_the_host_and_some_on_the_gpu(newest, engine_file, half_onnx, fresh_seed):  # noqa: F811
    arrays = random_inputs(1, fresh_seed)
    inputs = {**arrays, "hidden_states": OnGpu(arrays["hidden_states"])}
    target = np.zeros((1, 4, 2, 16, 16), np.float16)
    with Engine(engine_file) as engine:
        engine.run(inputs, {"sample": target})
        with pytest.raises(ArgumentError, match="pass outputs="):
            engine.run(inputs)
    assert arrays["hidden_states"].nbytes not in newest.cuda.copies[:-1]
    np.testing.assert_array_equal(target, expected(half_onnx, arrays))


def test_torch_tensors_in_torch_tensors_out(engine_file, half_onnx, fresh_seed):  # noqa: F811
    arrays = random_inputs(3, fresh_seed)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    with Engine(engine_file) as engine:
        sample = engine.run(tensors)["sample"]
    assert isinstance(sample, torch.Tensor)
    np.testing.assert_array_equal(sample.numpy(), expected(half_onnx, arrays))


def test_cuda_graph_is_replayed_while_shapes_stay(
    newest,  # noqa: F811
    engine_file,  # noqa: F811
    half_onnx,  # noqa: F811
    fresh_seed,
):
    with Engine(engine_file) as engine:
        context = engine.context(cuda_graph=True)
        for seed, batch in enumerate([2, 2, 2, 1, 1]):
            inputs = random_inputs(batch, fresh_seed + seed)
            sample = context.run(inputs)["sample"]
            np.testing.assert_array_equal(sample, expected(half_onnx, inputs))
        assert newest.cuda.calls.count("cuGraphLaunch") == 3
        assert newest.cuda.calls.count("cuGraphInstantiate") == 2
        assert len(newest.cuda.graphs) == 1
    assert not newest.cuda.graphs


def test_a_cuda_graph_serves_tensors_of_any_address(newest, engine_file, half_onnx, fresh_seed):  # noqa: F811
    """A pipeline makes new tensors at each step: the graph reads and writes buffers of its own."""
    kept = []  # else the next tensors would come to lie where these were
    with Engine(engine_file, cuda_graph=True) as engine:
        for seed in range(3):
            arrays = random_inputs(2, fresh_seed + seed)
            target = OnGpu(np.zeros((2, 4, 2, 16, 16), np.float16))
            inputs = {name: OnGpu(array) for name, array in arrays.items()}
            engine.run(inputs, {"sample": target})
            kept.append((inputs, target))
            np.testing.assert_array_equal(target.array, expected(half_onnx, arrays))
        assert newest.cuda.calls.count("cuGraphInstantiate") == 1
        assert newest.cuda.calls.count("cuGraphLaunch") == 2


def test_shapes_that_do_not_come_back_are_not_captured(newest, engine_file, half_onnx, fresh_seed):  # noqa: F811
    with Engine(engine_file, cuda_graph=True) as engine:
        for seed, batch in enumerate([1, 2, 1, 2]):
            inputs = random_inputs(batch, fresh_seed + seed)
            sample = engine.run(inputs)["sample"]
            np.testing.assert_array_equal(sample, expected(half_onnx, inputs))
    assert "cuStreamBeginCapture" not in newest.cuda.calls


def test_a_refusal_during_capture_leaves_the_stream_usable(
    newest,  # noqa: F811
    engine_file,  # noqa: F811
    half_onnx,  # noqa: F811
    fresh_seed,
    monkeypatch,
):
    inputs = random_inputs(2, fresh_seed)
    with Engine(engine_file, cuda_graph=True) as engine:
        engine.run(inputs)
        with monkeypatch.context() as patch:
            patch.setattr(stub_runtime.IExecutionContext, "execute_async_v3", lambda *_: False)
            with pytest.raises(EngineError, match="expected TensorRT to accept it") as caught:
                engine.run(inputs)
        sample = engine.run(inputs)["sample"]
        del caught
    np.testing.assert_array_equal(sample, expected(half_onnx, inputs))
    assert newest.cuda.calls.count("cuStreamBeginCapture") == 2
    assert newest.cuda.calls.count("cuGraphLaunch") == 1


def test_device_memory_grows_with_the_batch(newest, engine_file, half_onnx, fresh_seed):  # noqa: F811
    with Engine(engine_file) as engine:
        context = engine.context()
        for batch in (1, 4, 2):
            inputs = random_inputs(batch, fresh_seed + batch)
            sample = context.run(inputs)["sample"]
            np.testing.assert_array_equal(sample, expected(half_onnx, inputs))
            assert len(newest.cuda.allocations) == len(inputs) + 1
    calls = [call for call in newest.cuda.calls if call in ("allocate", "free")]
    tensors = len(inputs) + 1
    assert calls == tensors * ["allocate"] + tensors * ["free", "allocate"] + tensors * ["free"]
    assert not newest.cuda.allocations


def test_an_engine_keeps_to_its_gpu_from_any_thread(newest, engine_file, half_onnx, fresh_seed):  # noqa: F811
    arrays = random_inputs(2, fresh_seed)
    results = []
    with Engine(engine_file, gpu=1) as engine:
        assert cuda.current_gpu().index == 0, "the caller's GPU is left as it was"
        context = engine.context()
        thread = threading.Thread(target=lambda: results.append(context.run(arrays)["sample"]))
        thread.start()
        thread.join()
        near, far = (OnGpu(arrays["timestep"], (2, index)) for index in (1, 0))
        context.run({**arrays, "timestep": near}, {"sample": np.empty_like(results[0])})
        with pytest.raises(ArgumentError, match="GPU 1, the engine's"):
            context.run({**arrays, "timestep": far})
    np.testing.assert_array_equal(results[0], expected(half_onnx, arrays))
    assert newest.cuda.used == {1}
    with pytest.raises(ArgumentError, match="gpu: expected 0 to 2, got 3"):
        Engine(engine_file, gpu=3)


def test_a_gpu_without_memory_pools(newest, half_onnx, tmp_path, fresh_seed):  # noqa: F811
    inputs = random_inputs(2, fresh_seed)
    with cuda.on_gpu(2):
        build_engine(half_onnx, tmp_path / "model.engine", BuildSettings(sizes=SIZES))
    with Engine(tmp_path / "model.engine", gpu=2) as engine:
        sample = engine.run(inputs)["sample"]
        assert newest.cuda.allocations
    np.testing.assert_array_equal(sample, expected(half_onnx, inputs))
    assert newest.cuda.used == {2}
    assert not newest.cuda.allocations


def test_contexts_on_streams_of_their_own(newest, engine_file, half_onnx, fresh_seed):  # noqa: F811
    results = {}
    with Engine(engine_file) as engine:
        contexts = [engine.context() for _ in range(3)]
        assert len({int(context.stream.handle) for context in contexts}) == 3

        def work(index):
            inputs = random_inputs(1 + index, fresh_seed + index)
            results[index] = (inputs, contexts[index].run(inputs, wait=False)["sample"])
            contexts[index].synchronize()

        threads = [threading.Thread(target=work, args=(index,)) for index in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for inputs, sample in results.values():
        np.testing.assert_array_equal(sample, expected(half_onnx, inputs))
    assert newest.trt.contexts == 3


def test_lent_device_memory(newest, engine_file, half_onnx, fresh_seed):  # noqa: F811
    inputs = random_inputs(1, fresh_seed)
    with Engine(engine_file) as engine:
        need = engine.device_memory_bytes
        context = engine.context(device_memory=DeviceMemory(1 << 20, need))
        sample = context.run(inputs)["sample"]
        assert newest.trt.lent_memory == (1 << 20, need)
        with pytest.raises(ArgumentError, match=f"at least {need} bytes"):
            engine.context(device_memory=DeviceMemory(1 << 20, need - 1))
        with pytest.raises(ArgumentError, match="aligned to 256"):
            DeviceMemory((1 << 20) + 8, need)
    np.testing.assert_array_equal(sample, expected(half_onnx, inputs))


def test_weight_streaming(newest, engine_file, half_onnx, tmp_path):  # noqa: F811
    with Engine(engine_file, weight_streaming_budget=600):
        assert newest.trt.engine.weight_streaming_budget_v2 == 600
    with pytest.raises(ArgumentError, match="0 to 1000 bytes"):
        Engine(engine_file, weight_streaming_budget=1001)
    build_engine(half_onnx, tmp_path / "plain.engine")
    with pytest.raises(ArgumentError, match="--weight-streaming"):
        Engine(tmp_path / "plain.engine", weight_streaming_budget=600)


@pytest.mark.parametrize("machine", ["10.0.1"], indirect=True)
def test_options_that_old_releases_lack_are_refused(machine, half_onnx, tmp_path):  # noqa: F811, ARG001
    path = tmp_path / "model.engine"
    build_engine(half_onnx, path, BuildSettings(weight_streaming=True))
    with pytest.raises(BackendUnavailableError, match=r"TensorRT 10\.3 or later"):
        Engine(path, weight_streaming_budget=1)
    with Engine(path) as engine, pytest.raises(BackendUnavailableError, match=r"10\.3"):
        engine.context(device_memory=DeviceMemory(256, 1 << 20))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda i: i.pop("timestep"), "timestep missing"),
        (lambda i: i.update(extra=i["timestep"]), "extra unknown"),
        (lambda i: i.update(mask_bin=i["mask_bin"].astype(np.int64)), "convert it to int32"),
        (lambda i: i.update(timestep=i["timestep"][:, None]), r"timestep: .*B=1\.\.4"),
        (lambda i: i.update(timestep=i["timestep"][:1]), "with B = 2 as before"),
        (lambda i: i.update(hidden_states=i["hidden_states"][:, :3]), r"B=1\.\.4, 4, 2, 16, 16"),
        (lambda i: i.update(random_inputs(5)), "build an engine for B = 5"),
        (lambda i: i.update(random_inputs(2, text=33)), "build an engine for text_tokens = 33"),
        (lambda i: i.update(hidden_states=i["hidden_states"][:, :, :, ::-1]), "contiguous"),
        (lambda i: i.update(timestep=[1.0, 2.0]), "speaks DLPack, got list"),
        (lambda i: i.update(timestep=OnGpu(i["timestep"], (2, 1))), "GPU 0, the engine's"),
        (lambda i: i.update(timestep=OnGpu(i["timestep"], (8, 0))), "DLPack device 8"),
        (lambda i: i.update(timestep=torch.zeros(2, requires_grad=True)), r"tensor\.detach\(\)"),
    ],
)
def test_wrong_inputs_are_refused_before_anything_runs(newest, engine_file, change, said):  # noqa: F811
    inputs = random_inputs(2)
    with Engine(engine_file) as engine:
        change(inputs)
        with pytest.raises(ArgumentError, match=said):
            engine.run(inputs)
        assert newest.trt.executions == 0
    assert newest.cuda.copies == []


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (np.zeros((1, 4, 2, 16, 16), np.float16), r"\[2, 4, 2, 16, 16\] to write into"),
        (np.zeros((2, 4, 2, 16, 16), np.float32), "convert it to float16"),
        (np.broadcast_to(np.float16(0), (2, 4, 2, 16, 16)), "contiguous"),
    ],
)
def test_wrong_outputs_are_refused(newest, engine_file, output, said):  # noqa: F811
    with Engine(engine_file) as engine:
        with pytest.raises(ArgumentError, match=said):
            engine.run(random_inputs(2), {"sample": output})
        output = np.zeros((2, 4, 2, 16, 16), np.float16)
        output.setflags(write=False)
        with pytest.raises(ArgumentError, match="read-only"):
            engine.run(random_inputs(2), {"sample": output})
        with pytest.raises(ArgumentError, match="other unknown"):
            engine.run(random_inputs(2), {"other": output})
    assert newest.cuda.copies == []


def test_closed_engines_refuse(engine_file):  # noqa: F811
    engine = Engine(engine_file)
    context = engine.context()
    engine.close()
    engine.close()
    for run in (engine.run, context.run):
        with pytest.raises(ArgumentError, match="a closed one"):
            run(random_inputs(1))


def test_engine_of_another_machine(newest, engine_file):  # noqa: F811
    with pytest.raises(EngineError, match=r"SM 89 \(Stub GPU\).*got SM 90"):
        Engine(engine_file, gpu=2)
    newest.trt.names.__version__ = "10.16.1.11"
    with pytest.raises(EngineError, match=r"expected 11\.4.*got 10\.16.*tensorrt==11\.4"):
        Engine(engine_file)
    newest.trt.names.__version__ = newest.trt.version
    with newest.plugin.open("ab") as file:
        file.write(b"?")
    with pytest.raises(EngineError, match=r"plugin: expected paro-cpu.*PARO_LIBRARY_DIR"):
        Engine(engine_file)
    newest.plugin.unlink()
    with pytest.raises(BackendUnavailableError, match=r"libparo_attention\.so"):
        Engine(engine_file)
    assert newest.trt.contexts == 0


def test_engine_of_another_plan(engine_file):  # noqa: F811
    with pytest.raises(EngineError, match="export and build with this plan"):
        Engine(engine_file, plan_hash="ef" * 32)
    with Engine(engine_file, plan_hash="cd" * 32) as engine:
        assert engine.manifest.info.plan_hash == "cd" * 32


def test_the_hash_can_be_left_out(engine_file):  # noqa: F811
    manifest = json.loads(manifest_path(engine_file).read_text())
    manifest["engine"]["sha256"] = "0" * 64
    manifest_path(engine_file).write_text(json.dumps(manifest))
    with pytest.raises(EngineError, match="the file is damaged or of another build"):
        Engine(engine_file)
    with Engine(engine_file, check_hash=False) as engine:
        assert engine.manifest.engine.sha256 == "0" * 64
    engine_file.write_bytes(engine_file.read_bytes()[:-1])
    with pytest.raises(EngineError, match="the file is damaged or of another build"):
        Engine(engine_file, check_hash=False)


def test_damaged_engine(newest, engine_file):  # noqa: F811
    content = engine_file.read_bytes()
    for damaged in (content[:-1], content[:-1] + b"?", b""):
        engine_file.write_bytes(damaged)
        with pytest.raises(EngineError, match="the file is damaged or of another build"):
            Engine(engine_file)
    assert newest.cuda.calls == []
    engine_file.write_bytes(content)
    newest.trt.refuse_load = "Serialization assertion failed. Version tag does not match"
    with pytest.raises(EngineError, match="Version tag does not match"):
        Engine(engine_file)
    engine_file.unlink()
    with pytest.raises(EngineError, match="paro-trt build makes one"):
        Engine(engine_file)


def test_manifest_of_another_engine(newest, engine_file):  # noqa: F811, ARG001
    path = manifest_path(engine_file)
    document = json.loads(path.read_text())
    document["outputs"][0]["name"] = "another"
    path.write_text(json.dumps(document))
    with pytest.raises(EngineError, match="do not belong together"):
        Engine(engine_file)
    path.unlink()
    with pytest.raises(EngineError, match="expected the engine's manifest, got no such file"):
        Engine(engine_file)


def test_backend_that_does_not_take_the_file(engine_file, half_onnx):  # noqa: F811
    with pytest.raises(ArgumentError, match="an engine for backend ort"):
        open_session(engine_file, "ort")
    with pytest.raises(ArgumentError, match="paro-trt build makes one"):
        open_session(half_onnx, "tensorrt")
