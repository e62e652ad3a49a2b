"""The calls that diffusers' own pipelines make of their transformers, read by the families."""

from __future__ import annotations

import pytest
import torch

from paro_trt.models.conditioning import complete_inputs
from tests.support.pipelines import PIPELINES, TinyPipeline
from tests.support.recorded_calls import RecordedCall, recorded_calls

AVAILABLE = {tiny.name: tiny for tiny in PIPELINES if tiny.tiny.available}
every_pipeline = pytest.mark.parametrize("tiny", AVAILABLE.values(), ids=AVAILABLE)


def calls_of(tiny: TinyPipeline) -> tuple[torch.nn.Module, list[RecordedCall]]:
    """The transformer of a pipeline and the calls of a run of two steps."""
    pipeline = tiny.build()
    with recorded_calls(pipeline.transformer) as calls:
        tiny.run(pipeline)
    return pipeline.transformer, calls


@every_pipeline
def test_every_call_is_read_and_answered(tiny):
    model, calls = calls_of(tiny)
    family, config = tiny.tiny.family, tiny.tiny.full_config
    assert calls
    for call in calls:
        read = family.read_call(config, call.arguments)
        assert read.geometry == tiny.tiny.geometry()
        spec = family.conditioning_spec(config, read.geometry)
        inputs = complete_inputs(spec, read.inputs, len(read.latents))
        constants = family.constants(config, read.geometry)
        with torch.no_grad():
            outputs = family.forward(
                model, read.geometry, read.latents, read.timestep, inputs | constants
            )
        own = family.call_output(config, call.arguments, outputs)
        for actual, expected in zip(own, call.output, strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    first, last = (
        float(family.read_call(config, c.arguments).timestep[0]) for c in calls[:: len(calls) - 1]
    )
    assert first >= 990 > last > 0


@every_pipeline
def test_saved_and_loaded_it_is_the_same(tiny, tmp_path):
    from diffusers import DiffusionPipeline

    pipeline = tiny.build()
    pipeline.save_pretrained(tmp_path)
    loaded = DiffusionPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded) is type(pipeline)
    latents = tiny.run(loaded)
    assert torch.equal(latents, tiny.run(pipeline))
    assert not torch.equal(latents, tiny.run(pipeline, prompt="a green dog jumps up"))
