"""Pixels to latents: sizes on the VAE's grid are converted, others are refused."""

import pytest

from paro_trt.errors import ModelError
from paro_trt.families.registry import family_for
from paro_trt.models.resolution import latent_size

VIDEO, IMAGE = family_for("WanTransformer3DModel"), family_for("FluxTransformer2DModel")


@pytest.mark.parametrize(
    ("family", "pixels", "latents"),
    [
        (VIDEO, (81, 480, 832), (21, 60, 104)),
        (VIDEO, (1, 8, 8), (1, 1, 1)),
        (IMAGE, (1, 1024, 768), (1, 128, 96)),
    ],
)
def test_sizes_on_the_grid(family, pixels, latents):
    assert latent_size(family, {"in_channels": 16}, *pixels) == latents


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        ((80, 480, 832), "frames: expected 1 .* got 80; fix: use 77 or 81"),
        ((0, 480, 832), "frames: .* got 0"),
        ((81, 484, 832), "height: .* got 484; fix: use 480 or 488"),
        ((81, 480, 0), "width: .* got 0; fix: use 8 or 16"),
    ],
)
def test_sizes_off_the_grid_name_the_nearest(pixels, message):
    with pytest.raises(ModelError, match=message):
        latent_size(VIDEO, {"in_channels": 16}, *pixels)
