"""How embeddings are sampled: the pipeline's scheduler decides, and what differs is said."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from paro_trt.calibration.embeddings_source import EmbeddingsSource
from paro_trt.errors import ArgumentError
from paro_trt.families.registry import family_for
from paro_trt.models.load import load_model, load_partner
from paro_trt.models.schedules import Schedule, sampler_for, scheduler_config
from tests.support.pipelines import pipeline_of
from tests.support.tiny import variants_of

WAN = family_for("WanTransformer3DModel")
FLUX = family_for("FluxTransformer2DModel")
COGVIDEOX = family_for("CogVideoXTransformer3DModel")
UNIPC = {
    "_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction",
    "use_flow_sigmas": True, "flow_shift": 12.0, "num_train_timesteps": 1000,
}  # fmt: skip
STEPS = Schedule(steps=5)


def visited(scheduler, **settings):
    scheduler.set_timesteps(**settings)
    return tuple(float(timestep) for timestep in scheduler.timesteps)


def test_the_pipelines_scheduler_is_found_next_to_the_transformer(tmp_path):
    transformer = tmp_path / "pipeline" / "transformer"
    transformer.mkdir(parents=True)
    assert scheduler_config(transformer) is None
    (tmp_path / "pipeline" / "scheduler").mkdir()
    (tmp_path / "pipeline" / "scheduler" / "scheduler_config.json").write_text(json.dumps(UNIPC))
    assert scheduler_config(transformer) == UNIPC
    (tmp_path / "link").symlink_to(transformer)
    assert scheduler_config(tmp_path / "link") == UNIPC


def test_shift_and_prediction_type_are_the_schedulers():
    from diffusers import UniPCMultistepScheduler

    sampler = sampler_for(WAN, STEPS, UNIPC, 128)
    expected = UniPCMultistepScheduler.from_config(UNIPC)
    assert sampler.timesteps() == visited(expected, num_inference_steps=5)
    assert "flow_shift 12" in sampler.notes[0]
    assert "flow_prediction" in sampler.notes[0]
    assert sampler.timesteps() != sampler_for(WAN, STEPS, None, 128).timesteps()


def test_another_shift_than_the_schedulers_is_said():
    sampler = sampler_for(WAN, Schedule(steps=5, shift=3.0), UNIPC, 128)
    assert "shift 3 was asked for; the pipeline's is 12" in sampler.notes
    same = sampler_for(WAN, Schedule(steps=5, shift=12.0), UNIPC, 128)
    assert (
        same.timesteps() == sampler_for(WAN, STEPS, UNIPC, 128).timesteps() != sampler.timesteps()
    )
    assert len(same.notes) == 1


def test_cogvideoxs_snr_shift_and_spacing():
    from diffusers import CogVideoXDDIMScheduler, CogVideoXDPMScheduler

    own = CogVideoXDPMScheduler(snr_shift_scale=3.0, timestep_spacing="linspace",
                                prediction_type="v_prediction")  # fmt: skip
    config = {**own.config, "_class_name": "CogVideoXDPMScheduler"}
    sampler = sampler_for(COGVIDEOX, STEPS, config, 128)
    assert sampler.timesteps() == visited(
        CogVideoXDDIMScheduler.from_config(own.config), num_inference_steps=5
    )
    assert sampler.scheduler().config.snr_shift_scale == 3.0
    assert "steps are those of CogVideoXDDIMScheduler" in sampler.notes[1]


def test_a_shift_that_grows_with_the_tokens_is_the_pipelines():
    from diffusers import FlowMatchEulerDiscreteScheduler
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    own = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0, max_shift=1.3)
    config = {**own.config, "_class_name": "FlowMatchEulerDiscreteScheduler"}
    sampler = sampler_for(FLUX, STEPS, config, 1024)
    mu = calculate_shift(1024, 256, 4096, 0.5, 1.3)
    expected = visited(own, sigmas=np.linspace(1.0, 1 / 5, 5), mu=mu)
    assert sampler.timesteps() == pytest.approx(expected)
    assert sampler.timesteps() != sampler_for(FLUX, STEPS, config, 4096).timesteps()
    # Wan's pipelines have no rule for it.
    assert (
        "not used: the pipeline's own code computes its shift"
        in sampler_for(WAN, STEPS, config, 1024).notes[0]
    )


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"_class_name": "EDMEulerScheduler"}, "more than the transformer's prediction"),
        ({"_class_name": "CogVideoXDDIMScheduler"}, "not made for flow"),
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "invert_sigmas": True},
            "invert_sigmas",
        ),
    ],
)
def test_a_scheduler_that_is_not_used_is_named(config, reason):
    sampler = sampler_for(WAN, STEPS, config, 128)
    assert reason in sampler.notes[0]
    assert config["_class_name"] in sampler.notes[0]
    assert sampler.timesteps() == sampler_for(WAN, STEPS, None, 128).timesteps()


def test_given_timesteps_reach_the_transformer():
    given = (1000.0, 750.0, 500.0, 250.0)
    sampler = sampler_for(WAN, Schedule(timesteps=given), UNIPC, 128)
    assert sampler.timesteps() == pytest.approx(given)
    assert Schedule(timesteps=given).count == 4
    with pytest.raises(ArgumentError, match="timesteps"):
        sampler_for(COGVIDEOX, Schedule(timesteps=given), None, 128)


@pytest.mark.parametrize(
    "change",
    [
        {"timesteps": (250.0, 500.0)}, {"timesteps": (1001.0,)}, {"timesteps": (500.0, 0.0)},
        {"timesteps": (500.0,), "shift": 3.0}, {"timesteps": (500.0,), "steps": 2},
        {"steps": 0}, {"shift": 0.0}, {"shift": float("inf")},
    ],
)  # fmt: skip
def test_refusals(change):
    with pytest.raises(ArgumentError, match=next(iter(change))):
        Schedule(**change)


def test_each_expert_has_its_guidance(tmp_path):
    tiny = variants_of("wan")[0]
    for seed, name in enumerate(("transformer", "transformer_2")):
        tiny.build(seed).save_pretrained(tmp_path / name)
    (tmp_path / "model_index.json").write_text(json.dumps({"boundary_ratio": 0.875}))
    loaded = load_model(tmp_path / "transformer_2")
    prompts = tiny.prompts(1)
    text = prompts.tensors["encoder_hidden_states"]
    prompts = type(prompts)(prompts.texts, prompts.tensors, {"encoder_hidden_states": -text[0, :7]})

    def run(second):
        schedule = Schedule(steps=4, guidance_scale=4.0, guidance_scale_2=second)
        source = EmbeddingsSource(loaded, prompts, tiny.latent_size, schedule, load_partner(loaded))
        return source, source.record(0, 1, {3}, lambda _step: None)[3].arguments["hidden_states"]

    same, unguided = run(4.0), run(1.0)
    assert same[0].forwards == (2, 2, 2, 2)
    first = sum(timestep >= 875.0 for timestep in same[0].timesteps)
    assert 0 < first < 4
    assert unguided[0].forwards == (2,) * first + (1,) * (4 - first)
    assert torch.equal(run(None)[1], same[1])
    assert not torch.equal(unguided[1], same[1])
    alone = tiny.loaded()
    with pytest.raises(ArgumentError, match="guidance_scale_2"):
        EmbeddingsSource(alone, prompts, tiny.latent_size, Schedule(guidance_scale_2=3.0))


def test_a_recorded_run_is_that_of_the_pipelines_scheduler():
    """Embeddings, sampled by the pipeline's UniPC, pass the latents of the pipeline's own run."""
    from diffusers import UniPCMultistepScheduler

    tiny = pipeline_of("wan")
    pipe = tiny.build()
    pipe.scheduler = UniPCMultistepScheduler.from_config(UNIPC)
    embeds = pipe.encode_prompt("a cat", do_classifier_free_guidance=False,
                                max_sequence_length=12)[0]  # fmt: skip
    seen = []
    hook = pipe.transformer.register_forward_pre_hook(
        lambda _model, _args, kwargs: seen.append(kwargs["hidden_states"].clone()), with_kwargs=True
    )
    tiny.run(pipe, seed=3, prompt="a cat", num_inference_steps=4, guidance_scale=1.0)
    hook.remove()
    from paro_trt.models.prompts import Prompts
    from paro_trt.pipelines.calibrate import planned_transformer

    source = EmbeddingsSource(
        planned_transformer(pipe)[0], Prompts(("a cat",), {"encoder_hidden_states": embeds}),
        tiny.tiny.latent_size, Schedule(steps=4), scheduler=UNIPC,
    )  # fmt: skip
    calls = source.record(0, 3, {3}, lambda _step: None)
    torch.testing.assert_close(calls[3].arguments["hidden_states"], seen[3])


@pytest.mark.long
def test_every_process_describes_a_schedule_alike():
    """Unfinished work is resumed by another process, whose sets have another order."""
    code = (
        "import json\n"
        "from paro_trt.families.registry import family_for\n"
        "from paro_trt.models.schedules import Schedule, sampler_for\n"
        "made = sampler_for(family_for('WanTransformer3DModel'), Schedule(), None, 128)\n"
        "print(json.dumps(made.described()))\n"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(outputs) == 1
