"""Mochi: time that runs the other way, attention of a whole batch, and what it refuses."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from paro_trt.errors import ModelError
from paro_trt.families.base import Geometry
from paro_trt.families.mochi import MochiFamily
from paro_trt.plan import Grid, TextLayout, TextPosition
from tests.support.tiny import variants_of

FAMILY = MochiFamily()
(TINY,) = variants_of("mochi")


def test_euler_step_is_the_one_of_the_pipeline(fresh_seed):
    """Its scheduler runs sigma from 0 to 1 and hands the model 1000 times that as the timestep."""
    loaded, geometry = TINY.loaded(fresh_seed), TINY.geometry()
    latents, _, conditioning = TINY.inputs(1, fresh_seed)
    scheduler = FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
    scheduler.set_timesteps(sigmas=[1.0, 0.7, 0.2])
    scheduler.set_begin_index(1)
    timestep = scheduler.timesteps[1]
    assert float(timestep) == pytest.approx(300)
    with torch.no_grad():
        (output,) = loaded.model(
            hidden_states=latents, timestep=timestep.expand(1), return_dict=False, **conditioning
        )
    expected = scheduler.step(output, timestep, latents, return_dict=False)[0]
    velocity = loaded.velocity(geometry)(latents, torch.tensor([700.0]), conditioning)
    torch.testing.assert_close(latents + (0.2 - 0.7) * velocity, expected)


def test_adapted_model_computes_a_padded_batch_as_the_stock_model_does(fresh_seed):
    loaded, geometry = TINY.loaded(fresh_seed), TINY.geometry(odd=True)
    inputs = TINY.inputs(3, fresh_seed, odd=True)
    velocity = loaded.velocity(geometry)
    expected = velocity(*inputs)
    lengths = FAMILY.text_length(inputs[2])
    assert len(set(lengths.tolist())) == 3
    with FAMILY.adapted(loaded.model, geometry):
        torch.testing.assert_close(velocity(*inputs), expected, atol=1e-5, rtol=1e-5)
    assert type(loaded.model.transformer_blocks[0].attn1.processor).__name__.startswith("Mochi")


def test_sizes():
    config = TINY.full_config
    assert FAMILY.grid(config, (5, 16, 8)) == Grid(5, 8, 4)
    geometry = Geometry(Grid(5, 8, 4), TextLayout(20, TextPosition.LAST, padded=True))
    assert FAMILY.latent_shape(config, geometry) == (12, 5, 16, 8)
    with pytest.raises(ModelError, match="latent width: expected a multiple of the patch size 2"):
        FAMILY.grid(config, (5, 16, 7))
    with pytest.raises(ModelError, match=r"text tokens .* 1 to 24.* got 25"):
        FAMILY.text_layout(config, {"encoder_hidden_states": (25, 16)})


@pytest.mark.parametrize(("key", "value"), [("out_channels", 8), ("text_embed_dim", 20)])
def test_variants_that_are_refused(key, value):
    with pytest.raises(ModelError, match=key):
        FAMILY.check_config(TINY.full_config | {key: value})
