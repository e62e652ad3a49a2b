"""PAROAttention in ONNX Runtime by the native kernels: whole models, refusals, concurrent runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from paro_trt.errors import ArgumentError, BackendUnavailableError, OnnxFileError
from paro_trt.models.load import LoadedModel, load_model
from paro_trt.onnx_export import Body, export_onnx
from paro_trt.op import native
from paro_trt.runtime import Backend, open_session, ort_session
from paro_trt.runtime.custom_op import register_custom_op
from tests.onnx_export.single_node import single_node_model
from tests.support.cases import OpCase, random_inputs
from tests.support.plans import small_plan
from tests.support.small_onnx import INFO
from tests.support.tiny_wan import tiny_wan, tiny_wan_inputs

BINS = 2


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    directory = tmp_path_factory.mktemp("model")
    tiny_wan(seed=7).save_pretrained(directory)
    return load_model(directory)


def exported(loaded: LoadedModel, path: Path) -> Path:
    plan = small_plan(model=loaded.identity, bins=BINS, qk_bits=8, pv_bits=8, pool_dropped=True)
    export_onnx(loaded, plan, path)
    return path


@pytest.fixture(scope="module")
def single(loaded: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(loaded, tmp_path_factory.mktemp("exported") / "single.onnx")


@pytest.fixture(scope="module")
def half(loaded: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "half.onnx"
    return exported(load_model(loaded.path, torch.float16), path)


def edited(file: Path, target: Path, edit: Callable[[onnx.ModelProto], None]) -> Path:
    model = onnx.load(file)
    edit(model)
    onnx.save(model, target)
    return target


def attention_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == "PAROAttention"]


def without_function(model: onnx.ModelProto) -> None:
    del model.functions[:]


def with_attributes(**values: object) -> Callable[[onnx.ModelProto], None]:
    """Replace attributes of every PAROAttention node; None removes one."""

    def edit(model: onnx.ModelProto) -> None:
        for node in attention_nodes(model):
            kept = [entry for entry in node.attribute if entry.name not in values]
            del node.attribute[:]
            node.attribute.extend(kept)
            for name, value in values.items():
                if value is not None:
                    node.attribute.append(onnx.helper.make_attribute(name, value))

    return edit


def with_plan_tensor(
    name: str, change: Callable[[np.ndarray], np.ndarray]
) -> Callable[[onnx.ModelProto], None]:
    """Change the initializer that is the first PAROAttention node's input `name`."""
    index = ("token_order", "head_order", "block_mask", "tile_order", "channel_affine").index(name)

    def edit(model: onnx.ModelProto) -> None:
        source = attention_nodes(model)[0].input[3 + index]
        (tensor,) = (entry for entry in model.graph.initializer if entry.name == source)
        changed = change(numpy_helper.to_array(tensor).copy())
        tensor.CopyFrom(numpy_helper.from_array(changed, source))
        kept = [entry for entry in model.graph.value_info if entry.name != source]
        del model.graph.value_info[:]
        model.graph.value_info.extend(kept)

    return edit


def model_inputs(batch: int, seed: int, dtype: type = np.float32) -> dict[str, np.ndarray]:
    latents, timestep, conditioning = tiny_wan_inputs(batch, seed)
    floats = {"hidden_states": latents, "timestep": timestep, **conditioning}
    inputs = {name: tensor.numpy().astype(dtype) for name, tensor in floats.items()}
    inputs["timestep"] = timestep.numpy()
    return inputs | {"mask_bin": np.arange(batch, dtype=np.int32)[::-1] % BINS}


def run(path: Path, backend: str, inputs: dict[str, np.ndarray], threads: int = 1) -> np.ndarray:
    with ort_session(path, backend, threads) as session:
        sample = session.run(inputs)["sample"]
    assert np.isfinite(sample).all()
    return sample.astype(np.float64)


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize(
    ("bits", "tolerance"),
    [((16, 16), 1e-6), ((8, 16), 5e-4), ((8, 8), 5e-4), ((4, 8), 5e-4), ((4, 4), 5e-4)],
    ids=str,
)
@pytest.mark.parametrize("pool", [0, 1], ids=["dropped", "pooled"])
def test_model_gives_what_the_plain_file_gives(
    single: Path, tmp_path: Path, bits: tuple[int, int], pool: int, tolerance: float,
    fresh_seed: int,
) -> None:  # fmt: skip
    """Where rounding to codes is on an edge, the two may fall on different sides of it."""
    attributes = with_attributes(qk_bits=bits[0], pv_bits=bits[1], pool_dropped=pool)
    path = edited(single, tmp_path / "model.onnx", attributes)
    inputs = model_inputs(2, fresh_seed)
    expected = run(path, "ort", inputs)
    error = relative_error(run(path, "cpu", inputs), expected)
    print(f"relative error {error:.2e}")
    assert error < tolerance
    other = edited(path, tmp_path / "other.onnx", with_attributes(pool_dropped=1 - pool))
    assert relative_error(run(other, "cpu", inputs), expected) > 5 * tolerance


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_any_batch(single: Path, batch: int, fresh_seed: int) -> None:
    inputs = model_inputs(batch, fresh_seed)
    expected = run(single, "ort", inputs)
    assert relative_error(run(single, "cpu", inputs), expected) < 5e-4


@pytest.mark.long
def test_half_precision_file(half: Path, fresh_seed: int) -> None:
    inputs = model_inputs(2, fresh_seed, np.float16)
    expected = run(half, "ort", inputs)
    assert relative_error(run(half, "cpu", inputs), expected) < 2e-3


def test_the_native_op_needs_no_function_and_plain_sessions_do(
    single: Path, tmp_path: Path, fresh_seed: int
) -> None:
    bare = edited(single, tmp_path / "bare.onnx", without_function)
    inputs = model_inputs(1, fresh_seed)
    sample = run(bare, "cpu", inputs)
    np.testing.assert_array_equal(sample, run(single, "cpu", inputs))
    with pytest.raises(OnnxFileError, match="PAROAttention"):
        ort_session(bare, "ort")
    assert relative_error(run(single, "ort", inputs), sample) < 5e-4


def test_attributes_with_defaults_may_be_absent(
    single: Path, tmp_path: Path, fresh_seed: int
) -> None:
    explicit = edited(single, tmp_path / "a.onnx", with_attributes(scale=0.0, pool_dropped=0))
    absent = edited(single, tmp_path / "b.onnx", with_attributes(scale=None, pool_dropped=None))
    inputs = model_inputs(1, fresh_seed)
    np.testing.assert_array_equal(run(absent, "cpu", inputs), run(explicit, "cpu", inputs))


def assert_refused(path: Path, match: str) -> None:
    """One OnnxFileError of one line, at loading or at the first run."""
    with pytest.raises(OnnxFileError, match=match) as info, ort_session(path, threads=1) as session:
        session.run(model_inputs(1, 0))
    assert "\n" not in str(info.value)
    assert str(path) in str(info.value)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"block_q": None}, "block_q: expected an INT attribute"),
        ({"block_q": 0}, "block_q: expected 64 or 128, got 0"),
        ({"block_k": -64}, "block_k: expected 64 or 128"),
        ({"block_k": 2**32 + 64}, "block_k: expected a small integer"),
        ({"block_q": 128}, r"block_mask: expected shape \[.*\] with a query of \[.*, got \["),
        ({"qk_bits": 7}, "qk_bits: expected 16, 8 or 4"),
        ({"pv_bits": 8.0}, "pv_bits: expected an INT attribute"),
        ({"pool_dropped": 2}, "pool_dropped"),
        ({"pool_dropped": "1"}, "pool_dropped: expected an INT attribute"),
        ({"scale": 1}, "scale: expected a FLOAT attribute"),
        ({"scale": float("nan")}, "scale: expected a finite"),
        ({"scale": -1.0}, "scale"),
    ],
    ids=str,
)
def test_hostile_attributes(
    single: Path, tmp_path: Path, attributes: dict[str, object], message: str
) -> None:
    assert_refused(edited(single, tmp_path / "m.onnx", with_attributes(**attributes)), message)


def first_set_to(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array.reshape(-1)[0] = value
        return array

    return change


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("token_order", first_set_to(2**31 - 1), "token_order: expected each row a permutation"),
        ("token_order", first_set_to(-1), "token_order: expected each row a permutation"),
        ("token_order", lambda x: x[:, :-1], r"token_order: expected shape .*, got \[\d+, 127\]"),
        ("token_order", lambda x: x[:0], "orders: expected a value in 1"),
        ("token_order", lambda x: x[0], "token_order: expected 2 dimensions"),
        ("head_order", first_set_to(99), r"head_order\[0\]: expected a value"),
        ("head_order", lambda x: x[:1], r"head_order: expected shape \[2\] .*, got \[1\]"),
        ("block_mask", first_set_to(-1), "block_mask: expected no bit set"),
        ("block_mask", lambda x: x[..., None], "block_mask: expected 4 dimensions"),
        ("block_mask", lambda x: x[:, :1], r"block_mask: expected shape .*, got \[\d+, 1, "),
        ("tile_order", first_set_to(1000), "tile_order: expected each row a permutation"),
        ("tile_order", lambda x: x[:1], r"tile_order: expected shape \[2, .*, got \[1, "),
        ("channel_affine", first_set_to(np.inf), "channel_affine: expected finite"),
        ("channel_affine", lambda x: x[:3], r"channel_affine: expected shape \[4, .*, got \[3, "),
        ("channel_affine", lambda x: x.astype(np.float16), "channel_affine|Type"),
    ],
)
def test_hostile_plan_tensors(
    single: Path, tmp_path: Path, name: str, message: str,
    change: Callable[[np.ndarray], np.ndarray],
) -> None:  # fmt: skip
    assert_refused(edited(single, tmp_path / "m.onnx", with_plan_tensor(name, change)), message)


def test_a_session_survives_a_refused_run(single: Path, fresh_seed: int) -> None:
    """Of another shape, or of bins that the file does not have."""
    inputs = model_inputs(2, fresh_seed)
    wild = {"mask_bin": np.array([2**31 - 1, -(2**31)], np.int32)}
    with ort_session(single, threads=1) as session:
        expected = session.run(inputs)["sample"]
        with pytest.raises(ArgumentError, match="hidden_states"):
            session.run(inputs | {"hidden_states": np.ones((2, 4, 2, 16, 15), np.float32)})
        with pytest.raises(ArgumentError, match="mask_bin"):
            session.run(inputs | wild)
        np.testing.assert_array_equal(session.run(inputs)["sample"], expected)


def test_the_op_clamps_hostile_bins(single: Path, fresh_seed: int) -> None:
    """As the contract says, where no session of this package stands before it."""
    options = onnxruntime.SessionOptions()
    register_custom_op(options, 1)
    session = onnxruntime.InferenceSession(single, options, providers=["CPUExecutionProvider"])
    inputs, samples = model_inputs(2, fresh_seed), []
    for bins in ([2**31 - 1, -(2**31)], [BINS - 1, 0]):
        samples.append(session.run(None, inputs | {"mask_bin": np.array(bins, np.int32)})[0])
    np.testing.assert_array_equal(*samples)


def test_kernels_say_what_they_do_not_support(tmp_path: Path, fresh_seed: int) -> None:
    case = OpCase("narrow", 100, head_dim=32)
    inputs = random_inputs(case, fresh_seed)
    model = single_node_model(Body.SPARSE, inputs, case.config)
    onnx.helper.set_model_props(model, INFO.to_metadata())
    path = tmp_path / "narrow.onnx"
    onnx.save(model, path)
    arrays = {name: tensor.numpy() for name, tensor in inputs.named_tensors().items()}
    with (
        pytest.raises(BackendUnavailableError, match=r"head_dim.*got 32.*backend ort"),
        ort_session(path, threads=1) as session,
    ):
        session.run(arrays)


def test_concurrent_runs_of_one_session(single: Path, fresh_seed: int) -> None:
    inputs = [model_inputs(2, fresh_seed + i) for i in range(3)]
    results: dict[tuple[int, int], np.ndarray] = {}
    with ort_session(single, threads=2) as session:
        expected = [session.run(x)["sample"] for x in inputs]

        def work(index: int) -> None:
            for repeat in range(3):
                results[index, repeat] = session.run(inputs[index])["sample"]

        threads = [threading.Thread(target=work, args=(i,)) for i in range(len(inputs))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(results) == 9
    for (index, _), sample in results.items():
        np.testing.assert_array_equal(sample, expected[index])


def test_backends_by_name(single: Path, fresh_seed: int) -> None:
    inputs = model_inputs(1, fresh_seed)
    native_sample = run(single, "cpu", inputs)
    for opened in (
        ort_session(single),
        ort_session(single, Backend.CPU),
        open_session(single, "cpu", threads=3),
    ):
        with opened as session:
            np.testing.assert_array_equal(session.run(inputs)["sample"], native_sample)
    with pytest.raises(ArgumentError, match="one of ort, cpu, cuda, got 'tensorrt'"):
        ort_session(single, "tensorrt")


def test_without_the_library(single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.LIBRARY_DIRECTORY_VARIABLE, str(tmp_path))
    with pytest.raises(BackendUnavailableError, match=r"libparo_onnxruntime\.so.*backend ort"):
        ort_session(single)
    (tmp_path / "libparo_onnxruntime.so").write_bytes(b"not a library")
    with pytest.raises(BackendUnavailableError, match=r"can register.*backend ort"):
        ort_session(single)
    run(single, "ort", model_inputs(1, 0))
