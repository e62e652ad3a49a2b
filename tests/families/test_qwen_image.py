"""Qwen-Image: its call, reference images, the text's new place, and what it refuses."""

import pytest
import torch

from paro_trt.errors import ModelError
from paro_trt.families.base import Geometry
from paro_trt.families.qwen_image import QwenImageFamily, real_rotary, sliced_chunk
from paro_trt.families.shared import diffusers_range
from paro_trt.families.shared.adapt import ReplacedFunctions
from paro_trt.families.shared.joint_attention import turned
from paro_trt.models.intercept import intercept_attention
from paro_trt.plan import Grid, TextLayout, TextPosition
from tests.support.tiny import variants_of

pytestmark = pytest.mark.skipif(
    not variants_of("qwen_image")[0].available,
    reason="this diffusers is older than the family needs",
)
FAMILY = QwenImageFamily()
PLAIN, EDIT, EDIT_PLUS, EDIT_2511 = variants_of("qwen_image")


@pytest.mark.parametrize("tiny", variants_of("qwen_image"), ids=lambda tiny: tiny.name)
def test_forward_is_the_pipeline_s_call(tiny, fresh_seed):
    loaded, geometry = tiny.loaded(fresh_seed), tiny.geometry(odd=True)
    latents, timestep, conditioning = tiny.inputs(2, fresh_seed, odd=True)
    image = (1, geometry.grid.height, geometry.grid.width)
    hidden_states = latents
    if geometry.grid.frames > 1:
        hidden_states = torch.cat([latents, conditioning["image_latents"]], dim=1)
    with torch.no_grad():
        (expected,) = loaded.model(
            hidden_states=hidden_states,
            timestep=timestep / 1000,
            encoder_hidden_states=conditioning["encoder_hidden_states"],
            encoder_hidden_states_mask=conditioning["encoder_hidden_states_mask"],
            img_shapes=[[image] * geometry.grid.frames] * 2,
            return_dict=False,
        )
    actual = loaded.velocity(geometry)(latents, timestep, conditioning)
    torch.testing.assert_close(actual, expected[:, : latents.shape[1]], atol=1e-6, rtol=1e-6)


def test_references_are_frames_whose_latents_are_an_input():
    config = PLAIN.full_config
    assert FAMILY.grid(config, (3, 32, 16)) == Grid(3, 16, 8)
    geometry = Geometry(Grid(3, 16, 8), TextLayout(20, TextPosition.LAST, padded=True))
    assert FAMILY.latent_shape(config, geometry) == (128, 16)
    shapes = {entry.name: entry.shape for entry in FAMILY.conditioning_spec(config, geometry)}
    assert shapes["image_latents"] == ("B", 256, 16)


def test_reference_changes_the_output(fresh_seed):
    loaded, geometry = EDIT.loaded(fresh_seed), EDIT.geometry()
    latents, timestep, conditioning = EDIT.inputs(1, fresh_seed)
    velocity = loaded.velocity(geometry)
    other = conditioning | {"image_latents": conditioning["image_latents"] + 1}
    difference = velocity(latents, timestep, other) - velocity(latents, timestep, conditioning)
    assert difference.abs().max() > 1e-4


def test_adapted_puts_text_and_its_padding_at_the_end(fresh_seed):
    loaded, geometry = PLAIN.loaded(fresh_seed), PLAIN.geometry()
    inputs = PLAIN.inputs(2, fresh_seed)
    other = inputs[2] | {"encoder_hidden_states": torch.randn(2, 20, 32)}
    keys = []

    def record(_site, query, key, *_):
        keys.append(key)
        return query

    length = FAMILY.text_length(inputs[2]) + geometry.grid.tokens
    for conditioning in (inputs[2], other):
        with (
            FAMILY.adapted(loaded.model, geometry),
            intercept_attention(loaded.model, FAMILY.sites(loaded.config), record, length),
        ):
            loaded.velocity(geometry)(*inputs[:2], conditioning)
    moved = (keys[0] - keys[2]).abs().amax(dim=(0, 2, 3)) > 0
    assert moved.tolist() == [False] * geometry.grid.tokens + [True] * 20


def test_processor_takes_the_mask_in_the_form_of_older_diffusers(fresh_seed):
    """Before 0.39 one mask of text and image reached the processor, text first."""
    loaded, geometry = PLAIN.loaded(fresh_seed), PLAIN.geometry()
    attn = loaded.model.transformer_blocks[0].attn
    text_mask = torch.arange(20)[None] < torch.tensor([[20], [7]])
    both = torch.cat([text_mask, torch.ones(2, geometry.grid.tokens, dtype=torch.bool)], dim=1)
    generator = torch.Generator().manual_seed(fresh_seed)
    image, text = (
        torch.randn(2, tokens, 128, generator=generator) for tokens in (geometry.grid.tokens, 20)
    )
    with FAMILY.adapted(loaded.model, geometry):
        rotary = loaded.model.pos_embed()
        processed = [
            attn.processor(attn, image, text, image_rotary_emb=rotary, **mask)
            for mask in (
                {"encoder_hidden_states_mask": text_mask},
                {"attention_mask": both},
                {"attention_mask": both[:, None, None]},
                {},
            )
        ]
    assert all(map(torch.equal, processed[0], processed[1]))
    assert all(map(torch.equal, processed[0], processed[2]))
    assert not torch.allclose(processed[0][0], processed[3][0])


def test_real_rotary_turns_as_complex_numbers_do(fresh_seed):
    generator = torch.Generator().manual_seed(fresh_seed)
    x = torch.randn(2, 5, 3, 8, generator=generator) + 0.5
    angles = torch.randn(5, 4, generator=generator)
    unit = torch.polar(torch.ones_like(angles), angles)
    expected = torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * unit[:, None])
    torch.testing.assert_close(turned(x, *real_rotary(unit)), expected.flatten(-2))


class Halves(torch.nn.Module):
    def forward(self, x):
        first, second = x.chunk(2, dim=0)
        return first - second


def test_halves_of_a_batch_are_slices_and_other_chunks_are_as_they_were(fresh_seed):
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(fresh_seed))
    for tensor, dim in ((x, 0), (x, -1), (x[:5], 0)):
        expected = torch.chunk(tensor, 2, dim=dim)
        assert all(map(torch.equal, sliced_chunk(tensor, 2, dim=dim), expected))
    with ReplacedFunctions({torch.Tensor.chunk: sliced_chunk}):
        sizes = ({0: 2 * torch.export.Dim("half")},)
        program = torch.export.export(Halves(), (x,), dynamic_shapes=sizes)
    names = {str(node.target) for node in program.graph.nodes}
    assert any("slice" in name for name in names)
    assert not any("chunk" in name or "split" in name for name in names)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("use_layer3d_rope", True),
        ("use_additional_t_cond", True),
        ("guidance_embeds", True),
        ("out_channels", 16),
        ("axes_dims_rope", (16, 24)),
        ("axes_dims_rope", (10**9, 24, 24)),
        ("axes_dims_rope", (16, 25, 23)),
    ],
)
def test_variants_that_are_refused(key, value):
    with pytest.raises(ModelError, match="in_channels" if key == "out_channels" else key):
        FAMILY.check_config(PLAIN.full_config | {key: value})


def test_sizes_that_are_refused():
    config = PLAIN.full_config
    with pytest.raises(ModelError, match="latent height: expected a multiple of the patch size 2"):
        FAMILY.grid(config, (1, 33, 32))
    with pytest.raises(ModelError, match=r"latent width: .*up to 4096.* got 4098"):
        FAMILY.grid(config, (1, 32, 4098))
    with pytest.raises(ModelError, match=r"text tokens .* 1 to 3072.* got 3073"):
        FAMILY.text_layout(config, {"encoder_hidden_states": (3073, 32)})


def test_largest_image_and_text_are_within_the_tables(fresh_seed):
    model = PLAIN.build(fresh_seed)
    sides, text = (2048, 1), 3072
    image, words = model.pos_embed([[(1, *sides)]], max_txt_seq_len=text)
    assert (len(image), len(words)) == (2048, text)


def test_diffusers_that_attended_padding_is_refused(monkeypatch):
    monkeypatch.setattr("diffusers.__version__", "0.36.0")
    diffusers_range.check_diffusers()
    with pytest.raises(ModelError, match=r"0\.37 to 0\.42.*0\.36\.0"):
        FAMILY.check_config(PLAIN.full_config)
