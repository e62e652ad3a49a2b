"""The calls that diffusers' own pipelines make of their transformers, read by the families."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
import torch

from paro_trt.models.calls import fitted_call
from tests.support.pipelines import PIPELINES
from tests.support.recorded_calls import recorded_calls

AVAILABLE = {tiny.name: tiny for tiny in PIPELINES if tiny.tiny.available}
every_pipeline = pytest.mark.parametrize("tiny", AVAILABLE.values(), ids=AVAILABLE)
FIRST_OF_EACH = {tiny.family: tiny for tiny in reversed(AVAILABLE.values())}
every_pipeline_most_late = pytest.mark.parametrize(
    "tiny",
    [
        pytest.param(tiny, marks=[pytest.mark.long] * (tiny not in FIRST_OF_EACH.values()))
        for tiny in AVAILABLE.values()
    ],
    ids=AVAILABLE,
)


def transformers_of(pipeline) -> list[torch.nn.Module]:
    """One, or both experts."""
    second = getattr(pipeline, "transformer_2", None)
    return [pipeline.transformer] if second is None else [pipeline.transformer, second]


@every_pipeline
def test_every_call_is_read_and_answered(tiny):
    pipeline = tiny.build()
    family, config, geometry = tiny.tiny.family, tiny.tiny.full_config, tiny.tiny.geometry()
    with ExitStack() as stack:
        models = transformers_of(pipeline)
        recorded = [stack.enter_context(recorded_calls(model)) for model in models]
        tiny.run(pipeline)
    timesteps = []
    for model, calls in zip(models, recorded, strict=True):
        for call in calls:
            read = family.read_call(config, call.arguments)
            assert read.geometry.grid == geometry.grid
            text = read.geometry.text
            assert text == geometry.text or (text.padded and text.count < geometry.text.count)
            timesteps.append(float(read.timestep[0]))
            whole = fitted_call(family, config, read, read.geometry)
            inputs = {**whole.inputs, **family.constants(config, read.geometry)}
            with torch.no_grad():
                outputs = family.forward(model, read.geometry, read.latents, read.timestep, inputs)
            own = family.call_output(config, call.arguments, outputs)
            for actual, expected in zip(own, call.output, strict=True):
                if family.name in ("flux2", "qwen_image"):
                    # Pipelines do not look at the tokens of reference images.
                    count = read.latents.shape[1]
                    actual, expected = actual[:, :count], expected[:, :count]
                torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
        assert calls
    assert timesteps == sorted(timesteps, reverse=True)
    assert timesteps[0] > 980
    assert 0 < timesteps[-1] < timesteps[0]


@every_pipeline_most_late
def test_saved_and_loaded_it_is_the_same(tiny, tmp_path):
    from diffusers import DiffusionPipeline

    pipeline = tiny.build()
    pipeline.save_pretrained(tmp_path)
    loaded = DiffusionPipeline.from_pretrained(tmp_path, **tiny.loaded_with)
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded) is type(pipeline)
    latents = tiny.run(loaded)
    assert torch.equal(latents, tiny.run(pipeline))
    assert not torch.equal(latents, tiny.run(pipeline, prompt="a green dog jumps up"))
