"""Stable Diffusion 3: which of its attentions are replaced, its call, and what it refuses."""

import pytest
import torch

from paro_trt.errors import ModelError
from paro_trt.families.base import Geometry
from paro_trt.families.sd3 import Sd3Family, permuted
from paro_trt.models.intercept import intercept_attention
from paro_trt.plan import Grid, TextLayout, TextPosition
from tests.support.tiny import variants_of

FAMILY = Sd3Family()
MEDIUM, LARGE, OLD = variants_of("sd3")


def test_forward_is_the_pipeline_s_call(fresh_seed):
    loaded, geometry = MEDIUM.loaded(fresh_seed), MEDIUM.geometry(odd=True)
    latents, timestep, conditioning = MEDIUM.inputs(2, fresh_seed, odd=True)
    with torch.no_grad():
        (expected,) = loaded.model(
            hidden_states=latents, timestep=timestep, return_dict=False, **conditioning
        )
    assert torch.equal(loaded.velocity(geometry)(latents, timestep, conditioning), expected)


def test_second_attention_of_3_5_medium_stays_dense(fresh_seed):
    """It runs, over the image alone, and what replaces the sites' attention never sees it."""
    loaded, geometry = MEDIUM.loaded(fresh_seed), MEDIUM.geometry()
    dense, planned = [], []

    def record(site, query, *_):
        planned.append((site.name, query.shape[1]))
        return query

    second = loaded.model.transformer_blocks[0].attn2
    second.to_q.register_forward_hook(lambda _module, args, _output: dense.append(args[0].shape[1]))
    with intercept_attention(loaded.model, FAMILY.sites(loaded.config), record):
        loaded.velocity(geometry)(*MEDIUM.inputs(1, fresh_seed))
    joint = geometry.tokens
    assert planned == [("transformer_blocks.0.attn", joint), ("transformer_blocks.1.attn", joint)]
    assert dense == [geometry.grid.tokens]


def test_image_comes_first_in_the_joint_sequence(fresh_seed):
    """The layout says that text is last: its keys alone move with the prompt."""
    loaded, geometry = OLD.loaded(fresh_seed), OLD.geometry()
    assert geometry.text == TextLayout(13, TextPosition.LAST)
    latents, timestep, conditioning = OLD.inputs(1, fresh_seed)
    seen = []

    def record(_site, query, key, *_):
        seen.append(key)
        return query

    for text in (conditioning["encoder_hidden_states"], torch.randn(1, 13, 32)):
        with intercept_attention(loaded.model, FAMILY.sites(loaded.config), record):
            changed = conditioning | {"encoder_hidden_states": text}
            loaded.velocity(geometry)(latents, timestep, changed)
    difference = (seen[0] - seen[2]).abs().amax(dim=(0, 2, 3))
    assert difference[: geometry.grid.tokens].max() == 0
    assert difference[geometry.grid.tokens :].min() > 0


def test_einsum_of_the_unpatching_is_a_permutation_and_others_are_as_they_were():
    x, y = torch.randn(2, 3, 4, 5, 6, 7), torch.randn(7, 3)
    equation = "nhwpqc->nchpwq"
    assert torch.equal(permuted(equation, x), torch.einsum(equation, x))
    assert permuted(equation, x).data_ptr() == x.data_ptr()
    for equation, tensors in (("abcdef,fb->ae", (x, y)), ("ab->a", (y,)), ("ab", (y,))):
        assert torch.equal(permuted(equation, *tensors), torch.einsum(equation, *tensors))


def test_sizes_that_are_refused():
    config = MEDIUM.full_config
    assert FAMILY.grid(config, (1, 40, 8)) == Grid(1, 20, 4)
    geometry = Geometry(Grid(1, 20, 4), TextLayout(13, TextPosition.LAST))
    assert FAMILY.latent_shape(config, geometry) == (4, 40, 8)
    with pytest.raises(ModelError, match=r"latent height: .*up to 40.* got 42"):
        FAMILY.grid(config, (1, 42, 8))
    with pytest.raises(ModelError, match="latent width"):
        FAMILY.grid(config, (1, 8, 9))
    with pytest.raises(ModelError, match="latent frames: expected 1, an image"):
        FAMILY.grid(config, (2, 8, 8))
    with pytest.raises(ModelError, match=r"text tokens .* 1 to 589.* got 590"):
        FAMILY.text_layout(config, {"encoder_hidden_states": (590, 32)})


@pytest.mark.parametrize(
    ("key", "value"),
    [("out_channels", 8), ("caption_projection_dim", 64), ("qk_norm", "layer_norm")],
)
def test_variants_that_are_refused(key, value):
    with pytest.raises(ModelError, match=key):
        FAMILY.check_config(MEDIUM.full_config | {key: value})
