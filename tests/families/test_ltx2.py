"""LTX-2: video and sound in one sequence of latents, what is planned of it, and what is refused."""

import pytest
import torch

from paro_trt.errors import ModelError
from paro_trt.families.ltx2 import Ltx2Family, audio_tokens
from paro_trt.models.conditioning import complete_inputs
from paro_trt.models.resolution import latent_size
from paro_trt.plan import Grid
from tests.support.tiny import variants_of

pytestmark = pytest.mark.skipif(
    not all(tiny.available for tiny in variants_of("ltx2")), reason="this diffusers has no LTX-2.3"
)
FAMILY = Ltx2Family()
VARIANTS = variants_of("ltx2")
TINY, LTX_2_3, _ = VARIANTS

every_variant = pytest.mark.parametrize("tiny", VARIANTS, ids=[tiny.name for tiny in VARIANTS])


@every_variant
def test_forward_is_the_pipeline_s_call(tiny, fresh_seed):
    """17 frames at 24 a second are 0.71 s, 18 latents of sound at 25 a second."""
    loaded, geometry = tiny.loaded(fresh_seed), tiny.geometry(odd=True)
    latents, timestep, conditioning = tiny.inputs(2, fresh_seed, odd=True)
    assert latents.shape == (2, 3 * 7 * 5 + 18, 8)
    video_positions = loaded.model.rope.prepare_video_coords(2, 3, 7, 5, "cpu", fps=24.0)
    with torch.no_grad():
        video, sound = loaded.model(
            hidden_states=latents[:, :105],
            audio_hidden_states=latents[:, 105:],
            encoder_hidden_states=conditioning["encoder_hidden_states"],
            audio_encoder_hidden_states=conditioning["audio_encoder_hidden_states"],
            timestep=timestep,
            sigma=timestep,
            encoder_attention_mask=conditioning["encoder_attention_mask"],
            audio_encoder_attention_mask=conditioning["encoder_attention_mask"],
            video_coords=video_positions,
            audio_coords=loaded.model.audio_rope.prepare_audio_coords(2, 18, "cpu"),
            use_cross_timestep=True,
            return_dict=False,
        )
    actual = loaded.velocity(geometry)(latents, timestep, conditioning)
    assert torch.equal(actual, torch.cat([video, sound], dim=1))


@every_variant
def test_adapted_model_computes_a_batch_as_the_stock_model_does(tiny, fresh_seed):
    loaded, geometry = tiny.loaded(fresh_seed), tiny.geometry()
    inputs = tiny.inputs(3, fresh_seed)
    velocity = loaded.velocity(geometry)
    expected = velocity(*inputs)
    with FAMILY.adapted(loaded.model, geometry):
        assert torch.equal(velocity(*inputs), expected)


def test_only_the_video_attends_by_plan():
    names = [site.name for site in FAMILY.sites(TINY.full_config)]
    assert names == ["transformer_blocks.0.attn1", "transformer_blocks.1.attn1"]
    assert TINY.geometry().tokens == TINY.geometry().grid.tokens == 128


def test_length_of_the_sound():
    """121 frames at 24 a second are 5.04 s, at 25 latents a second; sizes of the released model."""
    released = {"audio_sampling_rate": 16000, "audio_hop_length": 160, "audio_scale_factor": 4}
    size = latent_size(FAMILY, TINY.full_config, 121, 512, 768)
    assert FAMILY.grid(TINY.full_config, size) == Grid(16, 16, 24)
    assert audio_tokens(released, size[0]) == 126
    assert audio_tokens(released | {"audio_scale_factor": 8}, size[0]) == 63


def test_text_of_2_3_is_already_projected():
    text, sound, _ = FAMILY.conditioning_spec(LTX_2_3.full_config, LTX_2_3.geometry())
    assert (text.shape[2], sound.shape[2]) == (128, 32)


def test_mask_may_be_left_out():
    spec = FAMILY.conditioning_spec(TINY.full_config, TINY.geometry())
    text = torch.randn(2, 9, 12)
    tensors = {"encoder_hidden_states": text, "audio_encoder_hidden_states": text}
    mask = complete_inputs(spec, tensors, 2)["encoder_attention_mask"]
    assert torch.equal(mask, torch.ones(2, 9, dtype=torch.int32))
    with pytest.raises(ModelError, match="audio_encoder_hidden_states"):
        complete_inputs(spec, tensors | {"audio_encoder_hidden_states": text[:, :8]}, 2)


@pytest.mark.parametrize(
    "change",
    [
        {"patch_size": 2},
        {"audio_patch_size_t": 2},
        {"audio_in_channels": 16},
        {"audio_out_channels": 4},
        {"vae_scale_factors": (8, 16, 16)},
    ],
)
def test_variants_that_are_refused(change):
    FAMILY.check_config(TINY.full_config | {"vae_scale_factors": [8, 32, 32]})
    with pytest.raises(ModelError, match=next(iter(change))):
        FAMILY.check_config(TINY.full_config | change)
