"""Pixels to latents: sizes on the VAE's grid are converted, others are refused."""

import pytest

from paro_trt.errors import ModelError
from paro_trt.families.registry import family_for
from paro_trt.models.resolution import latent_size

VIDEO, IMAGE = family_for("WanTransformer3DModel"), family_for("FluxTransformer2DModel")
CONFIG = {"in_channels": 16, "patch_size": (1, 2, 2), "rope_max_seq_len": 1024}
TI2V = CONFIG | {"in_channels": 48}
"""The VAE of Wan 2.2 TI2V 5B has 16 x 16 pixels a latent."""


@pytest.mark.parametrize(
    ("family", "pixels", "latents"),
    [
        (VIDEO, (81, 480, 832), (21, 60, 104)),
        (VIDEO, (1, 16, 16), (1, 2, 2)),
        (IMAGE, (1, 1024, 768), (1, 128, 96)),
    ],
)
def test_sizes_on_the_grid(family, pixels, latents):
    assert (
        latent_size(family, CONFIG | {"patch_size": 1} if family is IMAGE else CONFIG, *pixels)
        == latents
    )


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        ((80, 480, 832), "frames: expected 1 .* got 80; fix: use 77 or 81"),
        ((0, 480, 832), "frames: .* got 0"),
        ((81, 484, 832), "height: .* got 484; fix: use 480 or 496"),
        ((81, 480, 0), "width: .* got 0; fix: use 16 or 32"),
    ],
)
def test_sizes_off_the_grid_name_the_nearest(pixels, message):
    with pytest.raises(ModelError, match=message):
        latent_size(VIDEO, CONFIG, *pixels)


def test_patches_count_in_pixels():
    assert latent_size(VIDEO, TI2V, 5, 704, 128) == (2, 44, 8)
    with pytest.raises(ModelError, match=r"height: .* 32, .* got 720; fix: use 704 or 736"):
        latent_size(VIDEO, TI2V, 5, 720, 128)


def test_other_limits_of_a_model_are_its_own_words():
    latents = latent_size(VIDEO, CONFIG, 5, 64, 1 << 20)
    with pytest.raises(ModelError, match="latent width"):
        VIDEO.grid(CONFIG, latents)
