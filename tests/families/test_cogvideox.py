"""CogVideoX: rotary positions as its two pipelines compute them, and what it refuses."""

import pytest
import torch
from diffusers.models.embeddings import get_3d_rotary_pos_embed

from paro_trt.errors import ModelError
from paro_trt.families.base import Geometry
from paro_trt.families.cogvideox import CogVideoXFamily
from paro_trt.plan import Grid, TextLayout, TextPosition
from tests.support.tiny import variants_of

FAMILY = CogVideoXFamily()
OLD, SINE, NEW, IMAGE = variants_of("cogvideox")
TEXT = TextLayout(12, TextPosition.FIRST)


def test_released_model_at_its_own_size_counts_tokens():
    """5B at 480 x 720: the grid is the trained one, so that positions are whole numbers."""
    config = OLD.full_config | {"sample_height": 60, "sample_width": 90}
    constants = FAMILY.constants(config, Geometry(Grid(13, 30, 45), TEXT))
    cos, _ = get_3d_rotary_pos_embed(64, ((0, 0), (30, 45)), (30, 45), 13)
    assert torch.equal(constants["rotary_cos"], cos)
    assert constants["rotary_cos"].shape == (13 * 30 * 45, 64)


def test_a_wide_grid_is_fitted_into_the_trained_one():
    """480 x 720 trained, 480 x 960 asked for: 45 columns wide, 22 of 30 rows, centred."""
    config = OLD.full_config | {"sample_height": 60, "sample_width": 90}
    constants = FAMILY.constants(config, Geometry(Grid(2, 30, 60), TEXT))
    cos, _ = get_3d_rotary_pos_embed(64, ((4, 0), (26, 45)), (30, 60), 2)
    assert torch.equal(constants["rotary_cos"], cos)


def test_latents_lead_with_frames_and_1_5_patches_time():
    grid = FAMILY.grid(NEW.full_config, (6, 16, 16))
    assert grid == Grid(3, 8, 8)
    assert FAMILY.latent_shape(NEW.full_config, Geometry(grid, TEXT)) == (6, 4, 16, 16)
    with pytest.raises(ModelError, match=r"latent frames: .*multiple of the patch size 2"):
        FAMILY.grid(NEW.full_config, (5, 16, 16))


def test_text_longer_than_the_limit_is_refused():
    with pytest.raises(
        ModelError, match=r"text tokens .* 1 to 12.* got 13.*max_sequence_length=12"
    ):
        FAMILY.text_layout(OLD.full_config, {"encoder_hidden_states": (13, 16)})
    assert FAMILY.text_layout(OLD.full_config, {"encoder_hidden_states": (7, 16)}).count == 7
    with pytest.raises(ModelError, match="position embeddings count on them"):
        FAMILY.text_layout(SINE.full_config, {"encoder_hidden_states": (7, 16)})


def test_learned_positions_serve_one_size():
    config = SINE.full_config | {"use_learned_positional_embeddings": True}
    assert FAMILY.grid(config, (3, 16, 16)) == Grid(3, 8, 8)
    with pytest.raises(ModelError, match="the size the model was trained at"):
        FAMILY.grid(config, (3, 14, 16))


def test_image_to_video_appends_the_image(fresh_seed):
    loaded, geometry = IMAGE.loaded(fresh_seed), IMAGE.geometry()
    latents, timestep, conditioning = IMAGE.inputs(2, fresh_seed)
    constants = FAMILY.constants(loaded.config, geometry)
    with torch.no_grad():
        (expected,) = loaded.model(
            hidden_states=torch.cat([latents, conditioning["image_latents"]], dim=2),
            encoder_hidden_states=conditioning["encoder_hidden_states"],
            timestep=timestep,
            ofs=torch.tensor([2.0]),
            image_rotary_emb=(constants["rotary_cos"], constants["rotary_sin"]),
            return_dict=False,
        )
    assert torch.equal(loaded.velocity(geometry)(latents, timestep, conditioning), expected)
