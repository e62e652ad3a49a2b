"""run: outputs equal to the session's, and inputs it refuses before anything is run."""

from __future__ import annotations

import os
import shutil
import warnings

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_torch_file

from paro_trt.runtime.backends import open_session
from tests.support.tiny_wan import tiny_wan_inputs


@pytest.fixture
def inputs(fresh_seed):
    """A batch of two, one sample in each bin."""
    latents, timestep, conditioning = tiny_wan_inputs(2, seed=fresh_seed)
    return {
        "hidden_states": latents.numpy(),
        "timestep": timestep.numpy(),
        "encoder_hidden_states": conditioning["encoder_hidden_states"].numpy(),
        "mask_bin": np.array([0, 1], dtype=np.int32),
    }


@pytest.fixture
def run(paro, onnx_file, tmp_path):
    """Run on arrays; the outputs go to out.safetensors."""

    def invoke(arrays, *extra, model=onnx_file):
        save_file(arrays, tmp_path / "in.safetensors")
        output = tmp_path / "out.safetensors"
        return paro("run", model, "--inputs", tmp_path / "in.safetensors", "-o", output, *extra)

    return invoke


def test_outputs_are_the_sessions(run, inputs, onnx_file, tmp_path):
    document = run(inputs, "--json", "--threads", "1").document()
    assert document["outputs"]["sample"]["shape"] == list(inputs["hidden_states"].shape)
    with open_session(onnx_file, threads=1) as session:
        expected = session.run(inputs)["sample"]
    actual = load_file(tmp_path / "out.safetensors")["sample"]
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    written = run(inputs)
    assert "float32 [2, 4, 2, 16, 16]" in written.stdout
    assert "warning" not in written.stderr
    assert "out.safetensors is there and will be replaced" in written.stderr


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda arrays: arrays["timestep"].fill(1500.0), "[0, 1000]"),
        (lambda arrays: arrays["timestep"].fill(-1.0), "[0, 1000]"),
        (lambda arrays: arrays["timestep"].fill(np.nan), "[0, 1000]"),
        (lambda arrays: arrays["mask_bin"].fill(2), "0 to 1, as the file has 2"),
        (lambda arrays: arrays["mask_bin"].fill(-1), "got -1, -1"),
    ],
)
def test_timesteps_and_bins_that_do_not_exist(run, inputs, tmp_path, change, word):
    change(inputs)
    run(inputs).assert_refused(word)
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(("timesteps", "warned"), [((0.9, 0.3), 1), ((0.9, 500), 0), ((0, 0), 0)])
def test_timesteps_that_count_from_0_to_1_are_warned_of(run, inputs, timesteps, warned):
    inputs["timestep"][:] = timesteps
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert run(inputs).status == 0
    said = [str(warning.message) for warning in caught]
    assert sum(line.startswith("timestep: 0.9, 0.3 is almost no noise") for line in said) == warned


def test_outputs_that_are_not_finite(run, inputs, tmp_path):
    inputs["hidden_states"][0, 0, 0, 0, 0] = np.nan
    outcome = run(inputs)
    outcome.assert_refused("output sample", "NaN", "input hidden_states has 1 NaN", status=1)
    assert not (tmp_path / "out.safetensors").exists()
    document = run(inputs, "--allow-nonfinite", "--json").document()
    assert "NaN" in document["not_finite"]["sample"]
    assert np.isnan(load_file(tmp_path / "out.safetensors")["sample"]).any()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda arrays: arrays.pop("mask_bin"), "mask_bin missing"),
        (lambda arrays: arrays.update(extra=np.zeros(2, np.float32)), "extra unknown"),
        (lambda arrays: arrays.update(mask_bin=np.array([0, 1])), "int64"),
        (lambda arrays: arrays.update(timestep=np.ones(3, np.float32)), "timestep"),
        (
            lambda arrays: arrays.update(hidden_states=arrays["hidden_states"][..., :8].copy()),
            "hidden_states",
        ),
        (
            lambda arrays: arrays.update(hidden_states=arrays["hidden_states"].astype("float64")),
            "float64",
        ),
    ],
)
def test_inputs_of_wrong_name_dtype_or_shape(run, inputs, tmp_path, change, word):
    change(inputs)
    run(inputs).assert_refused(word)
    assert not (tmp_path / "out.safetensors").exists()


def test_backend_of_a_later_release(run, inputs):
    run(inputs, "--backend", "tensorrt").assert_refused("tensorrt")


def test_truncated_or_missing_model(run, inputs, onnx_file, tmp_path):
    cut = tmp_path / "cut.onnx"
    shutil.copy(onnx_file, cut)
    os.truncate(cut, cut.stat().st_size * 2 // 3)
    run(inputs, model=cut).assert_refused("cut.onnx")
    run(inputs, model=tmp_path / "none.onnx").assert_refused("no such file")


def test_input_files_that_cannot_be_read(paro, onnx_file, tmp_path):
    def invoke(path, output=tmp_path / "out.safetensors"):
        return paro("run", onnx_file, "--inputs", path, "-o", output)

    invoke(tmp_path / "none").assert_refused("no such file")
    (tmp_path / "text").write_text("0 1 2")
    invoke(tmp_path / "text").assert_refused("text")
    save_torch_file({"timestep": torch.ones(2, dtype=torch.bfloat16)}, tmp_path / "brain")
    invoke(tmp_path / "brain").assert_refused()
    invoke(tmp_path / "text", output=tmp_path / "no" / "out").assert_refused("mkdir -p")
