"""The Wan family: geometry, sites, conditioning and what it refuses."""

import pytest
import torch

from paro_trt.errors import ModelError
from paro_trt.models.base import AttentionSite, Geometry
from paro_trt.models.registry import family_for
from paro_trt.models.wan import WanFamily
from paro_trt.plan import Grid, TextLayout
from paro_trt.testing.tiny_wan import LATENT_SHAPE, tiny_wan, tiny_wan_inputs

FAMILY = WanFamily()


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
        {"added_kv_proj_dim": 128},
        {"in_channels": 36},
    ],
)
def test_config_out_of_bounds_or_unsupported(model, change):
    FAMILY.check_config(dict(model.config))
    with pytest.raises(ModelError):
        FAMILY.check_config(dict(model.config) | change)
