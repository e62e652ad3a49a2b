"""Flux.2: what its adapter hands to the model, against a call as the pipeline makes it."""

import pytest
import torch

from paro_trt.errors import ModelError
from paro_trt.families.base import Geometry
from paro_trt.families.flux2 import Flux2Family
from paro_trt.plan import Grid, TextLayout, TextPosition
from tests.support.tiny import variants_of

pytestmark = pytest.mark.skipif(
    not variants_of("flux2")[0].available, reason="this diffusers is older than the family needs"
)
FAMILY = Flux2Family()
DEV, KLEIN, REFERENCE, REFERENCES = variants_of("flux2")[:4]


@pytest.mark.parametrize("tiny", [DEV, KLEIN, REFERENCE, REFERENCES], ids=lambda tiny: tiny.name)
def test_forward_is_the_pipeline_s_call(tiny, fresh_seed):
    loaded, geometry = tiny.loaded(fresh_seed), tiny.geometry(odd=True)
    latents, timestep, conditioning = tiny.inputs(2, fresh_seed, odd=True)
    grid, text = geometry.grid, conditioning["encoder_hidden_states"]
    hidden_states, ids = latents, [image_ids(0, grid)]
    for index in range(1, grid.frames):
        ids.append(image_ids(10 * index, grid))
    if grid.frames > 1:
        hidden_states = torch.cat([latents, conditioning["image_latents"]], dim=1)
    tokens = torch.arange(text.shape[1])
    with torch.no_grad():
        (expected,) = loaded.model(
            hidden_states=hidden_states,
            timestep=timestep / 1000,
            guidance=None if tiny is KLEIN else torch.full((2,), 4.0),
            encoder_hidden_states=text,
            txt_ids=torch.cartesian_prod(*[torch.arange(1)] * 3, tokens),
            img_ids=torch.cat(ids),
            return_dict=False,
        )
    actual = loaded.velocity(geometry)(latents, timestep, conditioning)
    assert torch.equal(actual, expected[:, : latents.shape[1]])


def image_ids(time, grid):
    rows, columns = torch.arange(grid.height), torch.arange(grid.width)
    return torch.cartesian_prod(torch.tensor([time]), rows, columns, torch.arange(1))


def test_references_are_frames_whose_latents_are_an_input():
    config = DEV.full_config
    assert FAMILY.grid(config, (3, 32, 16)) == Grid(3, 16, 8)
    geometry = Geometry(Grid(3, 16, 8), TextLayout(12, TextPosition.FIRST))
    assert FAMILY.latent_shape(config, geometry) == (128, 16)
    shapes = {entry.name: entry.shape for entry in FAMILY.conditioning_spec(config, geometry)}
    assert shapes["image_latents"] == ("B", 256, 16)


def test_image_and_text_of_as_many_tokens_keep_their_own_positions(fresh_seed):
    loaded = DEV.loaded(fresh_seed)
    geometry = Geometry(Grid(1, 4, 3), TextLayout(12, TextPosition.FIRST))
    constants = FAMILY.constants(loaded.config, geometry)
    image, text = (loaded.model.pos_embed(constants[name]) for name in ("img_ids", "txt_ids"))
    with FAMILY.adapted(loaded.model, geometry):
        for name, expected in (("img_ids", image), ("txt_ids", text)):
            cos, sin = loaded.model.pos_embed(constants[name])
            assert torch.equal(cos, expected[0])
            assert torch.equal(sin, expected[1])
    assert not torch.equal(image[0], text[0])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("patch_size", 2),
        ("out_channels", 32),
        ("axes_dims_rope", (16, 24, 24)),
        ("axes_dims_rope", (16, 16, 16, 32)),
        ("axes_dims_rope", (15, 17, 16, 16)),
        ("axes_dims_rope", (10**9,) * 4),
        ("axes_dims_rope", None),
    ],
)
def test_variants_that_are_refused(key, value):
    with pytest.raises(ModelError, match=key):
        FAMILY.check_config(DEV.full_config | {key: value})


def test_text_longer_than_the_limit_is_refused():
    with pytest.raises(ModelError, match=r"text tokens .* 1 to 512.* got 513"):
        FAMILY.text_layout(DEV.full_config, {"encoder_hidden_states": (513, 32)})
