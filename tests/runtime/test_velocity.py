"""Sessions as velocities: bins by timestep, dtypes, use in sampling; and backends by name."""

import onnx
import pytest
import torch
from onnx import TensorProto

from paro_trt.errors import ArgumentError, OnnxFileError
from paro_trt.models.denoise import denoise, sampling_timesteps, seeded_noise
from paro_trt.runtime.backends import Backend, open_session
from paro_trt.runtime.onnxruntime_session import OrtSession
from paro_trt.runtime.velocity import session_velocity
from tests.support.small_onnx import INFO, small_onnx
from tests.support.tiny_wan import tiny_wan_inputs


def test_each_sample_gets_the_bin_of_its_timestep(onnx_file):
    latents, _, conditioning = tiny_wan_inputs(4)
    timestep = torch.tensor([1000.0, 700.0, 699.0, 3.0])
    with OrtSession(onnx_file) as session:
        sample = session_velocity(session)(latents, timestep, conditioning)
    (text,) = conditioning.values()
    offset = timestep + 10000 * torch.tensor([0, 0, 1, 2]) + text.mean(dim=(1, 2))
    torch.testing.assert_close(sample, latents + offset.view(-1, 1, 1, 1, 1))
    assert sample.dtype is torch.float32


def test_tensors_are_cast_to_the_file_s_types(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(small_onnx(float_type=TensorProto.FLOAT16), path)
    latents, timestep, conditioning = tiny_wan_inputs(1)
    with OrtSession(path) as session:
        sample = session_velocity(session)(latents.bfloat16(), timestep, conditioning)
    assert sample.dtype is torch.float32
    assert torch.isfinite(sample).all()


def test_missing_and_unknown_conditioning(onnx_file):
    latents, timestep, conditioning = tiny_wan_inputs(1)
    with OrtSession(onnx_file) as session:
        velocity = session_velocity(session)
        with pytest.raises(ArgumentError, match="encoder_hidden_states missing"):
            velocity(latents, timestep, {})
        with pytest.raises(ArgumentError, match="image unknown"):
            velocity(latents, timestep, conditioning | {"image": latents})


def test_sampling_through_a_session(onnx_file):
    """The file's velocity is x + offset(t): check one Euler step after another by hand."""
    _, _, conditioning = tiny_wan_inputs(1)
    (text,) = conditioning.values()
    latents = noise = seeded_noise((1, 4, 2, 16, 16), seed=1)
    timesteps = sampling_timesteps(3, 2.0)
    for timestep, following in zip(timesteps, (*timesteps[1:], 0.0), strict=True):
        bin_ = sum(timestep < boundary for boundary in INFO.bin_boundaries)
        velocity = latents + timestep + 10000 * bin_ + text.mean()
        latents = latents + velocity * (following - timestep) / 1000
    with open_session(onnx_file) as session:
        result = denoise(session_velocity(session), noise, conditioning, steps=3, shift=2.0)
    torch.testing.assert_close(result, latents, rtol=1e-4, atol=1e-2)


def test_backend_that_does_not_take_an_onnx_file(onnx_file):
    with pytest.raises(ArgumentError, match="expected an engine"):
        open_session(onnx_file, Backend.TENSORRT)


def test_unknown_backend_lists_the_known(onnx_file):
    with pytest.raises(ArgumentError, match="ort, cpu, cuda, tensorrt"):
        open_session(onnx_file, "rocm")


def test_file_without_metadata(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(small_onnx(info=None), path)
    with pytest.raises(OnnxFileError, match=r"paro\.format.*none.*paro-trt export"):
        open_session(path)
