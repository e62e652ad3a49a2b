"""Cosmos: its calls as three pipelines make them, time as they count it, and what it refuses."""

import pytest
import torch
from diffusers import EDMEulerScheduler
from diffusers.models.transformers import transformer_cosmos

from paro_trt.errors import ModelError
from paro_trt.families.base import Geometry
from paro_trt.families.cosmos import CosmosFamily, repeated_by_number
from paro_trt.models.resolution import latent_size
from paro_trt.plan import Grid
from tests.support.pipelines.cosmos import resizing
from tests.support.tiny import variants_of

FAMILY = CosmosFamily()
VIDEO, IMAGE, NEWER, FIRST = variants_of("cosmos")
needs_2_5 = pytest.mark.skipif(not NEWER.available, reason="this diffusers has no Predict2.5")


@pytest.fixture(name="resizing")
def resizing_fixture():
    """What diffusers takes from torchvision, so that stock calls run without it."""
    with resizing():
        yield


@pytest.mark.usefixtures("resizing")
@pytest.mark.parametrize(
    ("tiny", "fps"),
    [
        pytest.param(VIDEO, 16, id="predict2"),
        pytest.param(NEWER, None, id="predict2.5", marks=needs_2_5),
    ],
)
def test_video_is_the_pipeline_s_call(tiny, fps, fresh_seed):
    loaded, geometry = tiny.loaded(fresh_seed), tiny.geometry(odd=True)
    latents, timestep, conditioning = tiny.inputs(2, fresh_seed, odd=True)
    image, sigma = conditioning["image_latents"], (timestep / 1000).view(2, 1, 1, 1, 1)
    indicator = torch.zeros(2, 1, 3, 1, 1)
    indicator[:, :, 0] = 1.0
    with torch.no_grad():
        (expected,) = loaded.model(
            hidden_states=indicator * image + (1 - indicator) * latents,
            timestep=indicator * 0.0001 + (1 - indicator) * sigma,
            encoder_hidden_states=conditioning["encoder_hidden_states"],
            fps=fps,
            condition_mask=indicator.expand(-1, -1, -1, 14, 10),
            padding_mask=torch.zeros(1, 1, 112, 80),
            return_dict=False,
        )
    given = conditioning | {"condition_frames": indicator.flatten(1)}
    actual = loaded.velocity(geometry)(latents, timestep, given)
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.usefixtures("resizing")
def test_image_s_euler_step_is_the_one_of_the_pipeline(fresh_seed):
    """It counts noise from 0 to 80 and data as 1; t = sigma / (1 + sigma) makes it a flow."""
    loaded, geometry = IMAGE.loaded(fresh_seed), IMAGE.geometry()
    latents, _, conditioning = IMAGE.inputs(1, fresh_seed)
    sigma, next_sigma = torch.tensor([3.0]), torch.tensor([1.5])
    t, next_t = sigma / (1 + sigma), next_sigma / (1 + next_sigma)
    noisy = latents * (1 + sigma)
    with torch.no_grad():
        (output,) = loaded.model(
            hidden_states=noisy * (1 - t),
            timestep=t,
            padding_mask=torch.zeros(1, 1, 128, 128),
            return_dict=False,
            **conditioning,
        )
    clean = (1 - t) * noisy - t * output
    expected = noisy + (next_sigma - sigma) * (noisy - clean) / sigma
    velocity = loaded.velocity(geometry)(latents, t * 1000, conditioning)
    actual = (latents + (next_t - t) * velocity) * (1 + next_sigma)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("resizing")
def test_1_0_s_euler_step_is_the_one_of_the_pipeline(fresh_seed):
    """Its scheduler preconditions what goes into the model and what comes out."""
    loaded, geometry = FIRST.loaded(fresh_seed), FIRST.geometry()
    latents, _, conditioning = FIRST.inputs(1, fresh_seed)
    scheduler = EDMEulerScheduler(sigma_data=0.5, final_sigmas_type="sigma_min")
    scheduler.set_timesteps(4)
    scheduler.set_begin_index(1)
    (sigma, next_sigma), time = scheduler.sigmas[1:3], scheduler.timesteps[1]
    noisy = latents * (1 + sigma)
    with torch.no_grad():
        (output,) = loaded.model(
            hidden_states=scheduler.scale_model_input(noisy, time),
            timestep=time.expand(1),
            fps=30,
            padding_mask=torch.zeros(1, 1, 128, 128),
            return_dict=False,
            **conditioning,
        )
    expected = scheduler.step(output, time, noisy, return_dict=False)[0]
    t, next_t = (level / (1 + level) for level in (sigma, next_sigma))
    velocity = loaded.velocity(geometry)(latents, 1000 * t.expand(1), conditioning)
    actual = (latents + (next_t - t) * velocity) * (1 + next_sigma)
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


def test_1_0_is_finite_at_both_ends_of_the_schedule(fresh_seed):
    latents, _, conditioning = FIRST.inputs(2, fresh_seed)
    velocity = FIRST.loaded(fresh_seed).velocity(FIRST.geometry())
    assert velocity(latents, torch.tensor([1000.0, 0.0]), conditioning).isfinite().all()


def test_vaes_have_other_steps_in_time():
    assert latent_size(FAMILY, FIRST.full_config, 121, 64, 64) == (16, 8, 8)
    assert latent_size(FAMILY, VIDEO.full_config, 93, 64, 64) == (24, 8, 8)


def test_runs_without_torchvision_and_leaves_its_module_as_it_was(monkeypatch, fresh_seed):
    monkeypatch.delattr(transformer_cosmos, "transforms", raising=False)
    IMAGE.loaded(fresh_seed).velocity(IMAGE.geometry())(*IMAGE.inputs(1, fresh_seed))
    assert not hasattr(transformer_cosmos, "transforms")


def test_repeats_outside_of_an_export_are_as_they_were():
    x = torch.randn(2, 3)
    for repeats in (2, torch.tensor(2), torch.tensor([1, 2, 3])):
        expected = x.repeat_interleave(repeats, dim=1)
        assert torch.equal(repeated_by_number(x, repeats, dim=1), expected)


def test_video_from_text_alone_needs_no_image():
    spec = FAMILY.conditioning_spec(VIDEO.full_config, VIDEO.geometry())
    assert {entry.name: entry.default for entry in spec} == {
        "encoder_hidden_states": None,
        "image_latents": 0.0,
        "condition_frames": 0.0,
    }
    (text,) = FAMILY.conditioning_spec(IMAGE.full_config, IMAGE.geometry())
    assert text.shape == ("B", "L", 16)


@needs_2_5
def test_predict2_5_projects_its_text():
    spec = FAMILY.conditioning_spec(NEWER.full_config, NEWER.geometry())
    assert spec[0].shape == ("B", "L", 24)


def test_sizes():
    config = VIDEO.full_config
    assert FAMILY.grid(config, (8, 32, 16)) == Grid(8, 16, 8)
    assert FAMILY.latent_shape(config, Geometry(Grid(8, 16, 8))) == (4, 8, 32, 16)
    for size, message in (
        ((9, 32, 16), "latent frames: expected at most 8, got 9"),
        ((8, 34, 16), "latent height: expected at most 32, got 34"),
        ((8, 32, 15), "latent width: expected a multiple of the patch size 2"),
    ):
        with pytest.raises(ModelError, match=message):
            FAMILY.grid(config, size)
    with pytest.raises(ModelError, match="latent frames: expected at most 1, got 2"):
        FAMILY.grid(IMAGE.full_config, (2, 16, 16))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"extra_pos_embed_type": "learnable"}, "in_channels.*Cosmos 1.0"),
        ({"extra_pos_embed_type": "sine"}, "extra_pos_embed_type"),
        ({"controlnet_block_every_n": 7}, "controlnet_block_every_n.*Transfer"),
        ({"img_context_dim_in": 1152}, "img_context_dim_in.*Transfer"),
        ({"in_channels": 6}, "in_channels"),
        ({"patch_size": (2, 2, 2)}, "patch_size: expected 1 frame"),
        ({"patch_size": (1, 0, 2)}, "patch_size"),
        ({"patch_size": "122"}, "patch_size"),
        ({"max_size": (8, 32)}, "max_size"),
        ({"max_size": (10**9, 32, 32)}, "max_size"),
        ({"use_crossattn_projection": True, "crossattn_proj_in_channels": 10**9}, "crossattn"),
        (
            {
                "use_crossattn_projection": True,
                "crossattn_proj_in_channels": 24,
                "encoder_hidden_states_channels": 1024,
            },
            "encoder_hidden_states_channels",
        ),
    ],
)
def test_variants_that_are_refused(changes, message):
    FAMILY.check_config(VIDEO.full_config)
    with pytest.raises(ModelError, match=message):
        FAMILY.check_config(VIDEO.full_config | changes)
