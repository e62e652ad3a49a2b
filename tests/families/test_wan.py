"""The Wan family: geometry, sites, what its variants do with images, and what it refuses."""

import pytest
import torch

from paro_trt.errors import ArgumentError, ModelError
from paro_trt.families.base import AttentionSite, Geometry
from paro_trt.families.registry import family_for
from paro_trt.families.wan import WanFamily
from paro_trt.models.conditioning import complete_inputs
from paro_trt.models.resolution import latent_size
from paro_trt.plan import Grid, TextLayout
from tests.support.recorded_calls import recorded_calls
from tests.support.tiny import variants_of
from tests.support.tiny_wan import LATENT_SHAPE, tiny_wan, tiny_wan_inputs

FAMILY = WanFamily()
TEXT_ONLY, CHANNELS, CLIP, TWO_IMAGES, TI2V = variants_of("wan")


@pytest.fixture(scope="module")
def model():
    return tiny_wan()


def test_family_is_found_by_class_name():
    assert isinstance(family_for("WanTransformer3DModel"), WanFamily)


def test_unknown_class_lists_the_known():
    with pytest.raises(ModelError, match="'UNet2DConditionModel'") as info:
        family_for("UNet2DConditionModel")
    assert "WanTransformer3DModel" in str(info.value)


def test_sites_are_the_self_attentions(model):
    expected = tuple(AttentionSite(f"blocks.{i}.attn1", 2, 2, 64) for i in range(2))
    assert FAMILY.sites(model.config) == expected
    assert all(model.get_submodule(site.name).heads == site.heads for site in expected)


def test_grid_and_latent_shape_are_inverse(model):
    grid = FAMILY.grid(model.config, LATENT_SHAPE[1:])
    assert grid == Grid(2, 8, 8)
    assert FAMILY.latent_shape(model.config, Geometry(grid)) == LATENT_SHAPE
    assert FAMILY.text_layout(model.config, {}) == TextLayout()


@pytest.mark.parametrize(
    ("size", "axis"), [((2, 15, 16), "height"), ((2, 16, 1), "width"), ((33, 16, 16), "frames")]
)
def test_grid_refuses_what_patches_or_rope_do_not_fit(model, size, axis):
    with pytest.raises(ModelError, match=f"latent {axis}"):
        FAMILY.grid(model.config, size)


def test_conditioning_spec_names_what_forward_takes(model):
    (spec,) = FAMILY.conditioning_spec(model.config, Geometry(Grid(2, 8, 8)))
    latents, timestep, conditioning = tiny_wan_inputs(2)
    assert spec.shape == ("B", "L", conditioning[spec.name].shape[2])
    geometry = Geometry(Grid(2, 8, 8))
    (sample,) = FAMILY.forward(model, geometry, latents, timestep, conditioning)
    assert sample.shape == latents.shape
    assert torch.isfinite(sample).all()


@pytest.mark.parametrize(
    "change",
    [
        {"num_layers": 0},
        {"num_layers": "2"},
        {"num_layers": True},
        {"num_layers": 10**9},
        {"num_layers": None},
        {"attention_head_dim": -64},
        {"patch_size": [1, 2]},
        {"patch_size": [1, 0, 2]},
        {"patch_size": "122"},
        {"image_dim": 1280},
        {"image_dim": 0, "added_kv_proj_dim": 128},
        {"image_dim": 24, "added_kv_proj_dim": 64},
        {"image_dim": 24, "added_kv_proj_dim": 128, "pos_embed_seq_len": 257},
        {"added_kv_proj_dim": 128},
        {"pos_embed_seq_len": 514},
        {"out_channels": 8},
    ],
)
def test_config_out_of_bounds_or_unsupported(model, change):
    FAMILY.check_config(dict(model.config))
    with pytest.raises(ModelError):
        FAMILY.check_config(dict(model.config) | change)


def stock(loaded, **arguments):
    """The stock model's answer to a call as one of diffusers' pipelines makes it."""
    with torch.no_grad():
        return loaded.model(return_dict=False, **arguments)[0]


def test_image_to_video_appends_mask_and_image(fresh_seed):
    loaded, geometry = CHANNELS.loaded(fresh_seed), CHANNELS.geometry()
    latents, timestep, conditioning = CHANNELS.inputs(2, fresh_seed)
    assert conditioning["image_latents"].shape == (2, 4 + 4, 2, 16, 16)
    expected = stock(
        loaded,
        hidden_states=torch.cat([latents, conditioning["image_latents"]], dim=1),
        timestep=timestep,
        encoder_hidden_states=conditioning["encoder_hidden_states"],
    )
    assert torch.equal(loaded.velocity(geometry)(latents, timestep, conditioning), expected)


@pytest.mark.parametrize(("tiny", "images"), [(CLIP, 1), (TWO_IMAGES, 2)], ids=["one", "two"])
def test_images_by_clip(tiny, images, fresh_seed):
    """The pipeline hands over the tokens of a first and a last image as two rows of a batch."""
    loaded, geometry = tiny.loaded(fresh_seed), tiny.geometry()
    latents, timestep, conditioning = tiny.inputs(2, fresh_seed)
    clip = conditioning["encoder_hidden_states_image"]
    expected = stock(
        loaded,
        hidden_states=torch.cat([latents, conditioning["image_latents"]], dim=1),
        timestep=timestep,
        encoder_hidden_states=conditioning["encoder_hidden_states"],
        encoder_hidden_states_image=clip.reshape(2 * images, -1, clip.shape[-1]),
    )
    assert torch.equal(loaded.velocity(geometry)(latents, timestep, conditioning), expected)
    other = conditioning | {"encoder_hidden_states_image": clip.flip(1)}
    assert not torch.equal(loaded.velocity(geometry)(latents, timestep, other), expected)


def test_clip_fixes_the_number_of_tokens():
    text, clip = FAMILY.conditioning_spec(CLIP.full_config, CLIP.geometry())[:2]
    assert (text.shape[1], clip.shape[1]) == (512, 257)
    assert FAMILY.conditioning_spec(TWO_IMAGES.full_config, CLIP.geometry())[1].shape[1] == 14


def test_first_frame_that_is_given(fresh_seed):
    """As WanImageToVideoPipeline with expand_timesteps; sample 0 has an image, sample 1 none."""
    loaded, geometry = TI2V.loaded(fresh_seed), TI2V.geometry()
    latents, timestep, conditioning = TI2V.inputs(2, fresh_seed)
    conditioning["image_given"] = torch.tensor([1.0, 0.0])
    noisy = torch.ones(2, 1, *latents.shape[2:])
    noisy[0, :, 0] = 0
    expected = stock(
        loaded,
        hidden_states=(1 - noisy) * conditioning["image_latents"] + noisy * latents,
        timestep=(noisy[:, 0, :, ::2, ::2] * timestep[:, None, None, None]).flatten(1),
        encoder_hidden_states=conditioning["encoder_hidden_states"],
    )
    actual = loaded.velocity(geometry)(latents, timestep, conditioning)
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-6)


def test_without_an_image_ti2v_is_text_to_video(fresh_seed):
    loaded, geometry = TI2V.loaded(fresh_seed), TI2V.geometry()
    latents, timestep, conditioning = TI2V.inputs(2, fresh_seed)
    assert bool((conditioning["image_given"] == 0).all())
    text = conditioning["encoder_hidden_states"]
    expected = stock(loaded, hidden_states=latents, timestep=timestep, encoder_hidden_states=text)
    actual = loaded.velocity(geometry)(latents, timestep, conditioning)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_prompts_of_ti2v_may_leave_the_image_out():
    spec = FAMILY.conditioning_spec(TI2V.full_config, TI2V.geometry())
    inputs = complete_inputs(spec, {"encoder_hidden_states": torch.randn(2, 5, 16)}, 2)
    assert inputs["image_latents"].shape == (2, 48, 1, 16, 16)
    assert inputs["image_given"].tolist() == [0.0, 0.0]


def test_pixels_follow_the_vae():
    assert latent_size(FAMILY, TEXT_ONLY.full_config, 81, 480, 832) == (21, 60, 104)
    assert latent_size(FAMILY, TI2V.full_config, 121, 704, 1280) == (31, 44, 80)
    with pytest.raises(ModelError, match=r"height: .* got 712; fix: use 704 or 720"):
        latent_size(FAMILY, TI2V.full_config, 121, 712, 1280)


def own_call(loaded, geometry, *inputs):
    """The arguments by which the family calls the model."""
    with torch.no_grad(), recorded_calls(loaded.model) as calls:
        loaded.family.forward(loaded.model, geometry, *inputs)
    return calls[0].arguments


def test_a_first_frame_is_read_from_the_timesteps_of_its_tokens(fresh_seed):
    loaded, geometry = TI2V.loaded(fresh_seed), TI2V.geometry()
    latents, timestep, conditioning = TI2V.inputs(2, fresh_seed)
    conditioning["image_given"] = torch.tensor([1.0, 0.0])
    call = own_call(loaded, geometry, latents, timestep, conditioning)
    read = FAMILY.read_call(loaded.config, call)
    assert torch.equal(read.timestep, timestep)
    assert torch.equal(read.latents[:, :, 1:], latents[:, :, 1:])
    assert read.inputs["image_given"].tolist() == [1.0, 0.0]
    assert torch.equal(read.inputs["image_latents"][0], conditioning["image_latents"][0])
    again = own_call(loaded, geometry, read.latents, read.timestep, read.inputs)
    assert torch.equal(again["hidden_states"], call["hidden_states"])
    assert torch.equal(again["timestep"], call["timestep"])


def test_other_timesteps_of_tokens_are_refused(fresh_seed):
    loaded = TI2V.loaded(fresh_seed)
    call = own_call(loaded, TI2V.geometry(), *TI2V.inputs(2, fresh_seed))
    tokens = call["timestep"]
    frame = tokens.shape[1] // 2
    part_of_a_frame, other_frame, two_levels = tokens.clone(), tokens.clone(), tokens.clone()
    part_of_a_frame[:, : frame // 2] = 0
    other_frame[:, frame:] = 0
    two_levels[:, :frame] = 7
    for changed in (part_of_a_frame, other_frame, two_levels, tokens[:, 1:]):
        with pytest.raises(ArgumentError, match="timestep"):
            FAMILY.read_call(loaded.config, call | {"timestep": changed})
