"""Applying a plan in place: the module's own call, diffusers' own loop, and `remove`."""

from __future__ import annotations

import dataclasses
import gc
import inspect
import weakref

import accelerate
import pytest
import torch
from diffusers.hooks import HookRegistry, ModelHook

from paro_trt.errors import ArgumentError, ModelError
from paro_trt.families.base import Geometry
from paro_trt.models.apply import ParoTransformer
from paro_trt.models.denoise import denoise, seeded_noise
from paro_trt.models.experts import Expert, ExpertRole
from paro_trt.models.in_place import apply, remove
from paro_trt.plan import Grid
from tests.support.tiny import all_variants
from tests.support.tiny.model import TinyModel

TINY = {tiny.name: tiny for tiny in all_variants() if tiny.available}
IN_PLACE = (
    "wan", "wan-2.2-i2v", "wan-2.2-ti2v", "flux-dev", "flux2-reference", "cogvideox",
    "cogvideox-1.5-i2v", "hunyuan_video", "hunyuan_video15-t2v", "ltx_video", "ltx2", "mochi",
    "qwen_image-edit", "cosmos-predict2-video", "cosmos-1.0", "sd3.5-medium",
)  # fmt: skip


def of_name(name: str) -> TinyModel:
    if name not in TINY:
        pytest.skip("a later diffusers has it")
    return TINY[name]


def inputs_of(tiny: TinyModel, *, odd: bool = False):
    """Latents, timesteps and conditioning without an image that may be left out."""
    latents, timestep, conditioning = tiny.inputs(2, seed=5, odd=odd)
    for entry in tiny.family.conditioning_spec(tiny.full_config, tiny.geometry(odd=odd)):
        if entry.default == 0:
            conditioning[entry.name].zero_()
    return latents, timestep, conditioning


def own_call(tiny: TinyModel, model: torch.nn.Module, *, odd: bool = False) -> torch.Tensor:
    """The module's own forward as its family calls it, which is as its pipeline does."""
    latents, timestep, conditioning = inputs_of(tiny, odd=odd)
    geometry = tiny.geometry(odd=odd)
    constants = tiny.family.constants(tiny.full_config, geometry)
    return tiny.family.forward(model, geometry, latents, timestep, conditioning | constants)[0]


@pytest.mark.parametrize("name", IN_PLACE)
def test_the_own_forward_is_that_of_the_planned_model_until_removed(name):
    tiny = of_name(name)
    model, plan = tiny.build(), tiny.plan(density=0.4, bins=2)
    dense = own_call(tiny, model)
    expected = ParoTransformer(model, tiny.family, plan).velocity(*inputs_of(tiny))
    state = list(model.state_dict())
    apply(model, plan)
    # Cosmos 1.0's output is made of the velocity again, all others' is the velocity.
    torch.testing.assert_close(own_call(tiny, model).float(), expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(expected, dense, rtol=1e-4, atol=1e-4)
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
    tiny = of_name("flux-dev")
    model, plan = tiny.build(), tiny.plan(density=0.4)
    geometry, (latents, timestep, conditioning) = tiny.geometry(), tiny.inputs(1)
    constants = tiny.family.constants(tiny.full_config, geometry)
    turned = constants | {"img_ids": constants["img_ids"][:, [0, 2, 1]]}
    apply(model, plan)
    tiny.family.forward(model, geometry, latents, timestep, conditioning | constants)
    with pytest.raises(ArgumentError, match="img_ids"):
        tiny.family.forward(model, geometry, latents, timestep, conditioning | turned)
    landscape = Geometry(Grid(1, 8, 32), geometry.text)
    constants = tiny.family.constants(tiny.full_config, landscape)
    with pytest.raises(ModelError, match="one resolution"):
        tiny.family.forward(model, landscape, latents, timestep, conditioning | constants)


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
    tiny = of_name("wan")
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
    tiny = of_name("wan")
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


def offload_model(model: torch.nn.Module) -> None:
    accelerate.cpu_offload_with_hook(model, execution_device="cpu")


def offload_weights(model: torch.nn.Module) -> None:
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))


def hook_of_diffusers(model: torch.nn.Module) -> None:
    registry = HookRegistry.check_if_exists_or_initialize(model)
    registry.register_hook(ModelHook(), "first")
    registry.register_hook(ModelHook(), "second")


@pytest.mark.parametrize("hook", [offload_model, offload_weights, hook_of_diffusers])
@pytest.mark.parametrize("before", [False, True], ids=["apply-first", "hook-first"])
@pytest.mark.parametrize("name", ["flux-dev", "hunyuan_video15-t2v"])
def test_hooks_of_the_model_stay_around_the_plan(name, hook, before):
    """Weights that hooks bring where the call is are there when the plan runs: with
    `offload_weights` they are on no device before."""
    tiny = of_name(name)
    planned = tiny.build()
    dense = own_call(tiny, planned)
    apply(planned, tiny.plan(density=0.4, bins=2))
    expected = own_call(tiny, planned)
    model = tiny.build()
    if before:
        hook(model)
        assert torch.equal(own_call(tiny, model), dense)
    apply(model, tiny.plan(density=0.4, bins=2))
    if not before:
        hook(model)
    calls = []
    handle = model.register_forward_hook(lambda *_: calls.append(1))
    assert torch.equal(own_call(tiny, model), expected)
    assert len(calls) == 1
    handle.remove()
    remove(model)
    assert torch.equal(own_call(tiny, model), dense)


class WithoutScale(ModelHook):
    """Takes an argument away that a plan refuses."""

    def pre_forward(self, module, *args, **kwargs):  # noqa: ARG002
        return args, {name: value for name, value in kwargs.items() if name != "attention_kwargs"}


def test_the_plan_sees_what_hooks_make_of_a_call():
    tiny = of_name("wan")
    model = tiny.build()
    latents, timestep, conditioning = inputs_of(tiny)
    call = {"hidden_states": latents, "timestep": timestep, **conditioning}
    HookRegistry.check_if_exists_or_initialize(model).register_hook(WithoutScale(), "scale")
    apply(model, tiny.plan())
    expected = model(**call).sample
    assert torch.equal(model(**call, attention_kwargs={"scale": 1.0}).sample, expected)


def test_nothing_keeps_a_planned_model_alive():
    tiny = of_name("wan")
    model = tiny.build()
    apply(model, tiny.plan())
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_it_is_called_as_before():
    """By position or by name, for a tuple or an object."""
    tiny = of_name("wan")
    model = tiny.build()
    signature = inspect.signature(model.forward)
    latents, timestep, conditioning = inputs_of(tiny)
    text = conditioning["encoder_hidden_states"]
    apply(model, tiny.plan())
    expected = own_call(tiny, model)
    assert torch.equal(model(latents, timestep, text).sample, expected)
    assert torch.equal(model(latents, timestep, text, return_dict=False)[0], expected)
    assert inspect.signature(model.forward) == signature


def test_padded_text_is_filled_up_to_the_plan_s():
    """Qwen-Image's pipeline makes text as long as the longest prompt."""
    tiny = of_name("qwen_image")
    model, (latents, timestep, conditioning) = tiny.build(), tiny.inputs(1)
    geometry = tiny.geometry()
    conditioning["encoder_hidden_states_mask"][:, 7:] = 0
    apply(model, tiny.plan(density=0.4))
    expected = tiny.family.forward(model, geometry, latents, timestep, conditioning)[0]
    short = {name: tensor[:, :7] for name, tensor in conditioning.items()}
    actual = tiny.family.forward(model, geometry, latents, timestep, short)[0]
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    longer = {name: torch.cat([tensor, tensor[:, :7]], 1) for name, tensor in conditioning.items()}
    longer["encoder_hidden_states_mask"] = None
    with pytest.raises(ModelError, match=r"text tokens: expected at most 20.*max_sequence_length"):
        tiny.family.forward(model, geometry, latents, timestep, longer)


def test_refusals():
    tiny, mochi = of_name("wan"), of_name("mochi")
    with pytest.raises(ModelError, match="pipeline with one"):
        apply(object(), tiny.plan())
    model = tiny.build()
    with pytest.raises(ArgumentError, match="impl"):
        apply(model, tiny.plan(), impl="fastest")
    with pytest.raises(ModelError, match="the plan's model"):
        apply(model, mochi.plan())
    assert "forward" not in vars(model)
