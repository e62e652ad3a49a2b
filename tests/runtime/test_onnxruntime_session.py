"""Running ONNX files: right results, refusals before anything runs, damaged files."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.external_data_helper import set_external_data

from paro_trt.errors import ArgumentError, OnnxFileError
from paro_trt.onnx_file.describe import describe_onnx
from paro_trt.onnx_file.read import Constants, read_onnx
from paro_trt.runtime.onnxruntime_session import OrtSession
from tests.support.small_onnx import INFO, small_onnx


def small_inputs(batch=2, seed=None):
    rng = np.random.default_rng(seed)
    return {
        "hidden_states": rng.normal(0.3, 1, (batch, 4, 2, 16, 16)).astype(np.float32),
        "timestep": rng.uniform(0, 1000, batch).astype(np.float32),
        "encoder_hidden_states": rng.normal(-0.2, 1, (batch, 5, 16)).astype(np.float32),
        "mask_bin": rng.integers(0, 3, batch).astype(np.int32),
    }


def expected_sample(inputs):
    text = inputs["encoder_hidden_states"].mean(axis=(1, 2))
    offset = inputs["timestep"] + 10000 * inputs["mask_bin"] + text
    return inputs["hidden_states"] + offset[:, None, None, None, None]


@pytest.fixture
def session(onnx_file):
    with OrtSession(onnx_file, threads=1) as session:
        yield session


@pytest.mark.parametrize("batch", [1, 3])
def test_runs_any_batch(session, batch):
    inputs = small_inputs(batch)
    np.testing.assert_allclose(session.run(inputs)["sample"], expected_sample(inputs), rtol=1e-6)


def test_specs_and_info_are_the_file_s(session):
    specs = {spec.name: spec for spec in session.inputs}
    assert specs["hidden_states"].shape == ("batch", 4, 2, 16, 16)
    assert specs["mask_bin"].dtype == "int32"
    assert [spec.name for spec in session.outputs] == ["sample"]
    assert session.info == INFO


def test_strided_inputs_are_made_contiguous(session):
    inputs = small_inputs()
    strided = inputs | {
        "hidden_states": np.asfortranarray(inputs["hidden_states"]),
        "timestep": np.repeat(inputs["timestep"], 2)[::2],
    }
    assert not strided["hidden_states"].flags.c_contiguous
    np.testing.assert_array_equal(session.run(strided)["sample"], session.run(inputs)["sample"])


def change(inputs, **changes):
    changed = inputs | changes
    return {name: value for name, value in changed.items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask_bin": None}, "mask_bin missing"),
        ({"latents": np.ones(2, np.float32)}, "latents unknown"),
        ({"timestep": np.ones(2)}, r"timestep: expected float32 \[batch\].*float64 \[2\]"),
        ({"mask_bin": np.ones(2, np.int64)}, "mask_bin: expected int32"),
        ({"timestep": np.ones(3, np.float32)}, r"timestep.*batch = 2.*\[3\]"),
        ({"timestep": np.float32(1)}, "timestep: expected an array"),
        ({"timestep": np.array(1, np.float32)}, "timestep"),
        ({"timestep": [1.0, 2.0]}, "got list"),
        ({"hidden_states": np.ones((2, 4, 2, 16, 15), np.float32)}, "hidden_states"),
        ({"encoder_hidden_states": np.ones((2, 0, 16), np.float32)}, "not empty"),
        ({"encoder_hidden_states": np.ones((2, 5), np.float32)}, "encoder_hidden_states"),
    ],
)
def test_refuses_inputs_before_running(session, changes, message):
    with pytest.raises(ArgumentError, match=message):
        session.run(change(small_inputs(), **changes))


def test_closed_session_says_so(onnx_file):
    session = OrtSession(onnx_file)
    session.close()
    session.close()
    with pytest.raises(ArgumentError, match="a closed one"):
        session.run(small_inputs())


def test_threads_must_be_positive(onnx_file):
    with pytest.raises(ArgumentError, match="threads"):
        OrtSession(onnx_file, threads=0)


def assert_refused(path, match):
    with pytest.raises(OnnxFileError, match=match) as info:
        OrtSession(path)
    assert "\n" not in str(info.value)
    assert str(path.parent) in str(info.value)


def test_missing_file_and_directory(tmp_path):
    assert_refused(tmp_path / "absent.onnx", "no such file")
    (tmp_path / "directory.onnx").mkdir()
    assert_refused(tmp_path / "directory.onnx", "a directory")


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.9, 0.999])
def test_truncated_file(onnx_file, keep):
    data = onnx_file.read_bytes()
    onnx_file.write_bytes(data[: keep if isinstance(keep, int) else int(keep * len(data))])
    assert_refused(onnx_file, "expected")


def test_random_bytes(tmp_path):
    rng = np.random.default_rng()
    for index in range(20):
        path = tmp_path / f"{index}.onnx"
        path.write_bytes(rng.bytes(int(rng.integers(1, 3000))))
        assert_refused(path, "expected")


def test_flipped_bytes_are_refused_or_harmless(onnx_file):
    rng = np.random.default_rng()
    data = bytearray(onnx_file.read_bytes())
    for _ in range(40):
        damaged = data.copy()
        damaged[int(rng.integers(len(data)))] ^= int(rng.integers(1, 256))
        onnx_file.write_bytes(damaged)
        try:
            with OrtSession(onnx_file, threads=1) as session:
                session.run(small_inputs())
        except (OnnxFileError, ArgumentError):
            pass


def save_with_external_data(path):
    """Only `weight`: shape inference must see the others."""
    model = small_onnx()
    weight = model.graph.initializer[0]
    data = path.parent / "model.onnx.data"
    data.write_bytes(weight.raw_data)
    set_external_data(weight, data.name, offset=0, length=len(weight.raw_data))
    weight.ClearField("raw_data")
    onnx.save(model, path)
    return data


def test_external_data(tmp_path):
    path = tmp_path / "model.onnx"
    data = save_with_external_data(path)
    inputs = small_inputs()
    sample = OrtSession(path).run(inputs)["sample"]
    np.testing.assert_allclose(sample, expected_sample(inputs), rtol=1e-6)
    content = data.read_bytes()
    data.write_bytes(content[:-1])
    assert_refused(path, rf"model\.onnx\.data: .*at least {len(content)} bytes, got")
    data.unlink()
    assert_refused(path, r"model\.onnx\.data: .*no such file; fix: keep it next to model\.onnx")


@pytest.mark.parametrize(
    ("key", "value"), [("location", "../secret"), ("location", "/etc/passwd"), ("length", "many")]
)
def test_hostile_external_data(tmp_path, key, value):
    path = tmp_path / "model.onnx"
    save_with_external_data(path)
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == key:
            entry.value = value
    onnx.save(model, path)
    assert_refused(path, "external data in the same directory")


def test_unregistered_op(tmp_path):
    model = small_onnx()
    model.graph.node[0].domain = "paro"
    model.opset_import.append(helper.make_opsetid("paro", 1))
    onnx.save(model, tmp_path / "model.onnx")
    assert_refused(tmp_path / "model.onnx", "ONNX Runtime can load.*paro")


def test_float16_file_takes_float16(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(small_onnx(float_type=TensorProto.FLOAT16), path)
    with OrtSession(path) as session:
        assert session.inputs[0].dtype == "float16"
        with pytest.raises(ArgumentError, match="expected float16"):
            session.run(small_inputs())


def test_bfloat16_file_is_refused(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(small_onnx(float_type=TensorProto.BFLOAT16), path)
    assert_refused(path, "expected")


def test_unnamed_free_sizes_are_independent(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(small_onnx(batch=None), path)
    inputs = small_inputs(2)
    sample = OrtSession(path).run(inputs)["sample"]
    np.testing.assert_allclose(sample, expected_sample(inputs), rtol=1e-6)


def linked_as(layout, path, data, folder):
    """A name for the model at `path` in `folder`, linked to it as a store or a user does."""
    folder.mkdir()
    name = folder / "model.onnx"
    if layout == "link to the model":
        name.symlink_to(path)
    elif layout == "link to the directory":
        (folder / "link").symlink_to(path.parent)
        name = folder / "link" / path.name
    elif layout == "hard links":
        name.hardlink_to(path)
        (folder / data.name).hardlink_to(data)
    elif layout == "hub cache":
        blobs = folder / "blobs"
        blobs.mkdir()
        path.rename(blobs / "a1")
        data.rename(blobs / "b2")
        name.symlink_to(blobs / "a1")
        (folder / data.name).symlink_to(blobs / "b2")
    elif layout == "link to the data":
        path.rename(name)
        (folder / data.name).symlink_to(data.rename(data.with_name("stored elsewhere")))
    return name


@pytest.mark.parametrize(
    "layout",
    ["link to the model", "link to the directory", "hard links", "hub cache", "link to the data"],
)
def test_links_are_the_files_they_point_to(layout, tmp_path):
    real = tmp_path / "real"
    real.mkdir()
    path = real / "model.onnx"
    name = linked_as(layout, path, save_with_external_data(path), tmp_path / "linked")
    inputs = small_inputs()
    with OrtSession(name) as session:
        sample = session.run(inputs)["sample"]
    np.testing.assert_allclose(sample, expected_sample(inputs), rtol=1e-6)
    assert list(describe_onnx(name)["external_data"].values()) == [4]
    assert len(Constants(name, read_onnx(name)).get("weight")) == 1


def test_external_data_of_several_places_is_refused(tmp_path):
    path = tmp_path / "model.onnx"
    data = save_with_external_data(path)
    model = onnx.load(path, load_external_data=False)
    axes = model.graph.initializer[1]
    set_external_data(axes, "other.data", offset=0, length=len(axes.raw_data))
    axes.ClearField("raw_data")
    onnx.save(model, path)
    for index, name in enumerate((data.name, "other.data")):
        store = tmp_path / f"store {index}"
        store.mkdir()
        (store / "blob").write_bytes(data.read_bytes() + bytes(16))
        (tmp_path / name).unlink(missing_ok=True)
        (tmp_path / name).symlink_to(store / "blob")
    assert_refused(path, "links into 2: .*; fix: copy the data next to the file")
