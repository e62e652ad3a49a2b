"""HunyuanVideo-1.5: tokens packed without looking at values, both tasks, and what is refused."""

import pytest
import torch

from paro_trt.errors import ModelError
from paro_trt.families.hunyuan_video15 import HunyuanVideo15Family
from paro_trt.families.hunyuan_video15_forward import pack_existing
from paro_trt.models.conditioning import example_shapes
from paro_trt.models.resolution import latent_size
from paro_trt.plan import Grid, TextLayout, TextPosition
from tests.support.tiny import variants_of

pytestmark = pytest.mark.skipif(
    not variants_of("hunyuan_video15")[0].available,
    reason="this diffusers is older than the family",
)
FAMILY = HunyuanVideo15Family()
TEXT_ONLY, IMAGE = variants_of("hunyuan_video15")


@pytest.mark.parametrize(("first", "second"), [(3, 4), (5, 4), (1, 1), (5, 1), (3, 6)])
def test_packing_closes_the_gap_of_padding(first, second, fresh_seed):
    torch.manual_seed(fresh_seed)
    tokens = torch.randn(2, 11, 3)
    packed, exists = pack_existing(
        tokens, torch.tensor([first, 5]), torch.tensor([second, 6]), second_size=6
    )
    assert exists[0].tolist() == [True] * (first + second) + [False] * (11 - first - second)
    expected = torch.cat([tokens[0, :first], tokens[0, 5 : 5 + second]])
    assert torch.equal(packed[0][exists[0]], expected)
    assert torch.equal(packed[1], tokens[1])


@pytest.mark.parametrize("tiny", [TEXT_ONLY, IMAGE], ids=["t2v", "i2v"])
def test_forward_is_the_pipeline_s_call(tiny, fresh_seed):
    """The pipelines append latents of the image and a mask; text to video has zeros for both and
    729 zero tokens."""
    loaded, geometry = tiny.loaded(fresh_seed), tiny.geometry()
    latents, timestep, conditioning = tiny.inputs(2, fresh_seed)
    text = {name: conditioning[name] for name in conditioning if not name.startswith("image")}
    image_latents = conditioning.get("image_latents", torch.zeros(2, 5, 2, 8, 8))
    with torch.no_grad():
        (expected,) = loaded.model(
            hidden_states=torch.cat([latents, image_latents], dim=1),
            image_embeds=conditioning.get("image_embeds", torch.zeros(2, 729, 8)),
            timestep=timestep,
            return_dict=False,
            **text,
        )
    velocity = loaded.velocity(geometry)
    stock = velocity(latents, timestep, conditioning)
    torch.testing.assert_close(stock, expected, atol=1e-5, rtol=1e-5)
    with FAMILY.adapted(loaded.model, geometry):
        actual = velocity(latents, timestep, conditioning)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    assert not torch.equal(velocity(latents, timestep + 20, conditioning), stock)


def test_text_is_image_glyphs_and_prompt(fresh_seed):
    layout = IMAGE.geometry().text
    assert layout == TextLayout(729 + 256 + 20, TextPosition.LAST, padded=True)
    _, _, conditioning = IMAGE.inputs(2, fresh_seed)
    masks = [conditioning[f"encoder_attention_mask{suffix}"] for suffix in ("", "_2")]
    assert [mask.sum(dim=1).tolist() for mask in masks] == [[20, 15], [256, 192]]
    assert FAMILY.text_length(conditioning).tolist() == [729 + 276, 729 + 207]
    assert TEXT_ONLY.geometry().text.count == 276


@pytest.mark.parametrize(
    ("name", "tokens", "message"),
    [
        ("encoder_hidden_states", 1001, "1 to 1000"),
        ("encoder_hidden_states_2", 255, "expected 256.*got 255"),
        ("encoder_hidden_states_2", 257, "1 to 256.*got 257"),
        ("image_embeds", 257, "expected 729.*got 257"),
    ],
)
def test_token_counts_that_are_refused(name, tokens, message):
    spec = FAMILY.conditioning_spec(IMAGE.full_config, IMAGE.geometry())
    shapes = example_shapes(spec)
    assert FAMILY.text_layout(IMAGE.full_config, shapes) == IMAGE.geometry().text
    with pytest.raises(ModelError, match=message):
        FAMILY.text_layout(IMAGE.full_config, shapes | {name: (tokens, shapes[name][1])})


def test_pixels_to_tokens():
    size = latent_size(FAMILY, TEXT_ONLY.full_config, 121, 480, 848)
    assert FAMILY.grid(TEXT_ONLY.full_config, size) == Grid(31, 30, 53)


@pytest.mark.parametrize(
    "change",
    [
        {"use_meanflow": True},
        {"task_type": "sr"},
        {"task_type": None},
        {"qk_norm": "layer_norm"},
        {"out_channels": 10},
    ],
)
def test_variants_that_are_refused(change):
    FAMILY.check_config(TEXT_ONLY.full_config)
    with pytest.raises(ModelError, match=next(iter(change))):
        FAMILY.check_config(TEXT_ONLY.full_config | change)
