"""LTX-Video: what its adapter hands to the model, the text's mask, sizes and refusals."""

import pytest
import torch

from paro_trt.errors import ModelError
from paro_trt.families.ltx_video import LtxVideoFamily
from paro_trt.models.resolution import latent_size
from paro_trt.plan import Grid, TextLayout
from tests.support.tiny import variants_of

FAMILY = LtxVideoFamily()
(TINY,) = variants_of("ltx_video")


def test_forward_is_the_pipeline_s_call(fresh_seed):
    """At 25 frames a second, the VAE making one latent of 8 x 32 x 32 pixels."""
    loaded, geometry = TINY.loaded(fresh_seed), TINY.geometry(odd=True)
    latents, timestep, conditioning = TINY.inputs(2, fresh_seed, odd=True)
    with torch.no_grad():
        (expected,) = loaded.model(
            hidden_states=latents,
            encoder_hidden_states=conditioning["encoder_hidden_states"],
            timestep=timestep,
            encoder_attention_mask=conditioning["encoder_attention_mask"],
            num_frames=3,
            height=7,
            width=5,
            rope_interpolation_scale=(8 / 25, 32, 32),
            return_dict=False,
        )
    assert torch.equal(loaded.velocity(geometry)(latents, timestep, conditioning), expected)


def test_padding_of_the_text_is_not_attended(fresh_seed):
    loaded, velocity = TINY.loaded(fresh_seed), TINY.loaded(fresh_seed).velocity(TINY.geometry())
    latents, timestep, conditioning = TINY.inputs(2, fresh_seed)
    assert FAMILY.text_layout(loaded.config, {}) == TextLayout()
    exists = conditioning["encoder_attention_mask"].bool()
    assert exists.sum(dim=1).tolist() == [16, 12]
    expected = velocity(latents, timestep, conditioning)
    text = conditioning["encoder_hidden_states"]
    for where, ignored in ((~exists, True), (exists, False)):
        changed = torch.where(where[..., None], torch.randn_like(text), text)
        actual = velocity(latents, timestep, conditioning | {"encoder_hidden_states": changed})
        assert torch.equal(actual, expected) is ignored


def test_pixels_to_tokens():
    size = latent_size(FAMILY, TINY.full_config, 161, 512, 704)
    assert size == (21, 16, 22)
    assert FAMILY.grid(TINY.full_config, size) == Grid(21, 16, 22)
    with pytest.raises(ModelError, match=r"frames: .* got 160; fix: use 153 or 161"):
        latent_size(FAMILY, TINY.full_config, 160, 512, 704)
    with pytest.raises(ModelError, match=r"height: .* got 500; fix: use 480 or 512"):
        latent_size(FAMILY, TINY.full_config, 161, 500, 704)


@pytest.mark.parametrize(
    "change", [{"patch_size": 2}, {"patch_size_t": 2}, {"out_channels": 4}, {"patch_size": None}]
)
def test_variants_that_are_refused(change):
    FAMILY.check_config(TINY.full_config)
    with pytest.raises(ModelError, match=next(iter(change))):
        FAMILY.check_config(TINY.full_config | change)
