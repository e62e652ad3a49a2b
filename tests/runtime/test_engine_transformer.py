"""EngineTransformer in diffusers' own Wan pipeline, and what it refuses."""

from __future__ import annotations

import json

import pytest
import torch

from paro_trt.errors import ArgumentError, ModelError
from paro_trt.models.apply import ParoTransformer
from paro_trt.models.load import load_model
from paro_trt.onnx_export import export_onnx
from paro_trt.plan import mask_bins
from paro_trt.runtime.onnxruntime_session import OrtSession
from paro_trt.runtime.transformer import EngineTransformer
from tests.support.plans import small_plan
from tests.support.tiny_wan import tiny_wan, tiny_wan_inputs


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A model directory, its plan of two bins and the exported file."""
    directory = tmp_path_factory.mktemp("wan")
    tiny_wan(seed=3).save_pretrained(directory / "model")
    loaded = load_model(directory / "model")
    plan = small_plan(model=loaded.identity, qk_bits=16, pv_bits=16, density=0.3)
    export_onnx(loaded, plan, directory / "tiny.onnx")
    return loaded, plan, directory / "tiny.onnx"


@pytest.fixture
def stub(exported):
    loaded, _, path = exported
    with OrtSession(path, threads=1) as session:
        yield EngineTransformer(session, loaded.config)


def test_same_call_same_result_with_the_bin_of_the_timestep(stub, exported, fresh_seed):
    loaded, plan, _ = exported
    latents, timestep, conditioning = tiny_wan_inputs(2, fresh_seed)
    planned = ParoTransformer(loaded.model, loaded.family, plan)
    bins = torch.from_numpy(mask_bins(timestep.numpy(), plan.bin_boundaries))
    assert bins.tolist() == [0, 1]
    expected = planned(latents, timestep, *conditioning.values(), bins)[0]
    actual = stub(latents, timestep, **conditioning, return_dict=False)[0]
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=2e-4)
    other = stub(latents, timestep.flip(0), **conditioning).sample
    assert not torch.allclose(other, expected, atol=1e-3)


def test_in_the_pipeline(stub, exported, monkeypatch, fresh_seed):
    """diffusers' WanPipeline denoises with it as with the planned model."""
    pytest.importorskip("transformers", reason="WanPipeline needs transformers")
    from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline

    loaded, plan, _ = exported
    planned = ParoTransformer(loaded.model, loaded.family, plan)
    vae = AutoencoderKLWan(base_dim=3, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1,
                           latents_mean=[0.0] * 4, latents_std=[1.0] * 4)  # fmt: skip
    latents, _, conditioning = tiny_wan_inputs(1, fresh_seed)

    def sample(transformer):
        pipeline = WanPipeline(
            tokenizer=None, text_encoder=None, vae=vae, transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        )  # fmt: skip
        pipeline.set_progress_bar_config(disable=True)
        embeds = conditioning["encoder_hidden_states"]
        return pipeline(
            prompt_embeds=embeds, negative_prompt_embeds=-embeds, height=128, width=128,
            num_frames=5, num_inference_steps=3, guidance_scale=2.0, latents=latents,
            output_type="latent", return_dict=False,
        )[0]  # fmt: skip

    def by_plan(hidden_states, timestep, encoder_hidden_states, **_):
        bins = torch.from_numpy(mask_bins(timestep.numpy(), plan.bin_boundaries))
        with torch.no_grad():
            return planned(hidden_states, timestep.float(), encoder_hidden_states, bins)

    actual = sample(stub)
    monkeypatch.setattr(stub, "forward", by_plan)
    torch.testing.assert_close(actual, sample(stub), atol=1e-4, rtol=1e-3)


def test_what_was_not_exported_is_refused(stub, fresh_seed):
    latents, timestep, conditioning = tiny_wan_inputs(2, fresh_seed)
    with pytest.raises(ArgumentError, match="encoder_hidden_states_image"):
        stub(latents, timestep, **conditioning, encoder_hidden_states_image=latents)
    with pytest.raises(ArgumentError, match="attention_kwargs"):
        stub(latents, timestep, **conditioning, attention_kwargs={"scale": 1.0})
    with pytest.raises(ArgumentError, match=r"one for each sample.*\[2, 128\]"):
        stub(latents, timestep[:, None].expand(2, 128), **conditioning)
    with pytest.raises(ArgumentError, match="hidden_states"):
        stub(latents[:, :3], timestep, **conditioning)


def test_another_models_configuration(exported):
    loaded, _, path = exported
    with OrtSession(path, threads=1) as session:
        with pytest.raises(ModelError, match="pass the configuration of the model"):
            EngineTransformer(session, {**loaded.config, "eps": 2e-6})
        config = json.loads((loaded.path / "config.json").read_text())
        assert EngineTransformer(session, config).dtype is torch.float32
        assert EngineTransformer(session, config).config.in_channels == 4
