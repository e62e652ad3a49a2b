"""Applying a plan in place: the module's own call, diffusers' own loop, and `remove`."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from paro_trt.errors import ArgumentError, ModelError
from paro_trt.models.apply import ParoTransformer
from paro_trt.models.denoise import denoise, seeded_noise
from paro_trt.models.experts import Expert, ExpertRole
from paro_trt.models.in_place import apply, remove
from tests.support.tiny import variants_of
from tests.support.tiny.model import TinyModel

IN_PLACE = (
    "wan", "wan-2.2-i2v", "flux-dev", "cogvideox", "cogvideox-1.5-i2v", "hunyuan_video",
    "sd3", "sd3.5-medium",
)  # fmt: skip


def tiny_of(name: str) -> TinyModel:
    families = ("wan", "flux", "cogvideox", "hunyuan_video", "sd3", "mochi")
    return next(tiny for family in families for tiny in variants_of(family) if tiny.name == name)


def own_call(tiny: TinyModel, model: torch.nn.Module, *, odd: bool = False) -> torch.Tensor:
    """The module's own forward as its family calls it, which is as its pipeline does."""
    latents, timestep, conditioning = tiny.inputs(2, seed=5, odd=odd)
    geometry = tiny.geometry(odd=odd)
    constants = tiny.family.constants(tiny.full_config, geometry)
    return tiny.family.forward(model, geometry, latents, timestep, conditioning | constants)[0]


@pytest.mark.parametrize("name", IN_PLACE)
def test_the_own_forward_is_that_of_the_planned_model_until_removed(name):
    tiny = tiny_of(name)
    model, plan = tiny.build(), tiny.plan(density=0.4, bins=2)
    dense = own_call(tiny, model)
    expected = ParoTransformer(model, tiny.family, plan).velocity(*tiny.inputs(2, seed=5))
    state = list(model.state_dict())
    apply(model, plan)
    assert torch.equal(own_call(tiny, model).float(), expected)
    assert not torch.equal(expected, dense)
    assert list(model.state_dict()) == state
    with pytest.raises(ModelError, match="one resolution"):
        own_call(tiny, model, odd=True)
    with pytest.raises(ModelError, match="call remove"):
        apply(model, plan)
    remove(model)
    assert torch.equal(own_call(tiny, model), dense)
    assert "forward" not in vars(model)
    with pytest.raises(ModelError, match="with a plan"):
        remove(model)


def test_packed_latents_of_another_shape_with_as_many_tokens_are_refused():
    tiny = tiny_of("flux-dev")
    model, plan = tiny.build(), tiny.plan(density=0.4)
    geometry, (latents, timestep, conditioning) = tiny.geometry(), tiny.inputs(1)
    constants = tiny.family.constants(tiny.full_config, geometry)
    turned = constants | {"img_ids": constants["img_ids"].flip(-1)}
    apply(model, plan)
    tiny.family.forward(model, geometry, latents, timestep, conditioning | constants)
    with pytest.raises(ModelError, match="one resolution"):
        tiny.family.forward(model, geometry, latents, timestep, conditioning | turned)


def wan_pipeline(model: torch.nn.Module, **parts: object):
    from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline

    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipeline = WanPipeline(
        tokenizer=None, text_encoder=None, vae=None, scheduler=scheduler, transformer=model, **parts
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def run_wan(pipeline, noise: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    _, _, frames, height, width = noise.shape
    return pipeline(
        prompt_embeds=text, latents=noise, num_frames=1 + 4 * (frames - 1), height=8 * height,
        width=8 * width, num_inference_steps=4, guidance_scale=1.0, output_type="latent",
        return_dict=False,
    )[0]  # fmt: skip


def test_the_pipelines_own_loop_runs_the_plan():
    tiny = tiny_of("wan")
    model, plan = tiny.build(), tiny.plan(density=0.4, bins=2)
    pipeline = wan_pipeline(model)
    (text,) = tiny.inputs(1)[2].values()
    noise = seeded_noise((1, *tiny.family.latent_shape(tiny.full_config, tiny.geometry())), 3)
    dense = run_wan(pipeline, noise, text)
    paro = ParoTransformer(model, tiny.family, plan)
    conditioning = {"encoder_hidden_states": text}
    expected = denoise(paro.velocity, noise, conditioning, steps=4, shift=3.0)
    apply(pipeline, plan)
    planned = run_wan(pipeline, noise, text)
    torch.testing.assert_close(planned, expected, atol=1e-5, rtol=1e-5)
    assert float((planned - dense).norm() / dense.norm()) > 1e-4
    remove(pipeline)
    assert torch.equal(run_wan(pipeline, noise, text), dense)


def test_a_plan_finds_its_expert_in_the_pipeline():
    tiny = tiny_of("wan")
    high, low = tiny.build(1), tiny.build(2)
    pipeline = wan_pipeline(high, transformer_2=low, boundary_ratio=0.875)
    expert = Expert(ExpertRole.LOW_NOISE, 875.0)
    identity = expert.identity(tiny.class_name, dict(high.config))
    plan = tiny.plan(density=0.4)
    apply(pipeline, dataclasses.replace(plan, model=identity))
    assert "forward" in vars(low)
    assert "forward" not in vars(high)
    with pytest.raises(ModelError, match="the plan's model"):
        apply(pipeline, plan)
    remove(pipeline)
    assert "forward" not in vars(low)


def test_refusals():
    tiny, mochi = tiny_of("wan"), variants_of("mochi")[0]
    with pytest.raises(ModelError, match="ParoTransformer"):
        apply(mochi.build(), mochi.plan())
    with pytest.raises(ModelError, match="pipeline with one"):
        apply(object(), tiny.plan())
    model = tiny.build()
    with pytest.raises(ArgumentError, match="impl"):
        apply(model, tiny.plan(), impl="fastest")
    with pytest.raises(ModelError, match="the plan's model"):
        apply(model, mochi.plan())
    assert "forward" not in vars(model)
