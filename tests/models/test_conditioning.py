"""Prompt files and a model's conditioning: what is read back, filled in, and refused."""

import json

import pytest
import torch
from safetensors.torch import save_file

from paro_trt.errors import ModelError
from paro_trt.families.base import ConditioningInput, Role
from paro_trt.families.qwen_image import QwenImageFamily
from paro_trt.families.wan import WanFamily
from paro_trt.models.conditioning import complete_inputs, example_inputs
from paro_trt.models.prompts import Prompts, load_prompts, prompts_of, save_prompts

TEXTS = ["a red circle", "a blue square, naïve"]
SPEC = (
    ConditioningInput("encoder_hidden_states", ("B", 5, 16)),
    ConditioningInput("encoder_attention_mask", ("B", 5), torch.int32, Role.MASK),
    ConditioningInput("guidance", ("B",), torch.float32, Role.SCALAR, default=3.5),
)


@pytest.fixture
def embeds():
    return torch.randn(2, 5, 16) + 0.3


@pytest.fixture
def mask():
    return torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])


def write(path, tensors, prompts=TEXTS):
    metadata = None if prompts is None else {"prompts": json.dumps(prompts)}
    save_file(tensors, path, metadata)
    return path


def test_every_tensor_is_read_back(tmp_path, embeds, mask):
    negative = torch.randn(5, 16)
    tensors = {
        "encoder_hidden_states": embeds,
        "encoder_attention_mask": mask,
        "negative.encoder_hidden_states": negative,
    }
    prompts = load_prompts(write(tmp_path / "p.safetensors", tensors))
    assert prompts.texts == tuple(TEXTS)
    assert len(prompts) == 2
    assert prompts.shapes() == {"encoder_hidden_states": (5, 16), "encoder_attention_mask": (5,)}
    one = prompts.rows([1])
    assert torch.equal(one["encoder_hidden_states"], embeds[1:])
    assert torch.equal(one["encoder_attention_mask"], mask[1:])
    away = prompts.negative_rows([0, 1])
    assert torch.equal(away["encoder_hidden_states"], torch.stack([negative, negative]))
    assert torch.equal(away["encoder_attention_mask"], mask)
    assert prompts.only([1]).texts == (TEXTS[1],)


def test_names_of_pipelines_and_half_precision(tmp_path, embeds):
    tensors = {"prompt_embeds": embeds.half(), "negative_prompt_embeds": embeds[0].half()}
    prompts = load_prompts(str(write(tmp_path / "p.safetensors", tensors)))
    assert torch.equal(prompts.tensors["encoder_hidden_states"], embeds.half().float())
    assert torch.equal(prompts.negative["encoder_hidden_states"], embeds[0].half().float())


def test_negative_is_optional(tmp_path, embeds):
    prompts = load_prompts(write(tmp_path / "p.safetensors", {"prompt_embeds": embeds}))
    assert prompts.negative is None
    assert prompts.negative_rows([0]) is None


def test_missing_and_truncated_files(tmp_path, embeds):
    with pytest.raises(ModelError, match=r"absent\.safetensors"):
        load_prompts(tmp_path / "absent.safetensors")
    path = write(tmp_path / "p.safetensors", {"prompt_embeds": embeds})
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ModelError, match=r"p\.safetensors") as info:
        load_prompts(path)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    ("tensors", "subject"),
    [
        ({"negative.x": torch.ones(2, 5)}, "a tensor for each conditioning input"),
        ({"x": torch.ones(2, 5), "y": torch.ones(3, 5)}, "one row a prompt"),
        ({"x": torch.full((2, 5, 16), float("nan"))}, "NaN"),
        ({"x": torch.ones(2, 0, 16)}, "not empty"),
        ({"x": torch.ones(2, 5, dtype=torch.complex64)}, "a real tensor"),
        ({"x": torch.ones(2, 5, 16), "negative.x": torch.ones(4, 12)}, r"shape \[5, 16\]"),
        ({"x": torch.ones(2, 5), "negative.x": torch.ones(4)}, r"shape \[5\]"),
        ({"x": torch.ones(2, 5, 9), "negative.x": torch.randn(2, 5, 9)}, "one negative prompt"),
        (
            {"prompt_embeds": torch.ones(2, 5, 9), "encoder_hidden_states": torch.ones(2, 5, 9)},
            "one tensor for encoder_hidden_states",
        ),
        ({"x": torch.ones(2, 5), "negative.y": torch.ones(5)}, "no tensor"),
    ],
)
def test_wrong_tensors(tmp_path, tensors, subject):
    with pytest.raises(ModelError, match=subject):
        load_prompts(write(tmp_path / "p.safetensors", tensors))


@pytest.mark.parametrize("prompts", [["one"], "two texts", [1, 2], {"a": 1}])
def test_wrong_texts(tmp_path, embeds, prompts):
    path = write(tmp_path / "p.safetensors", {"prompt_embeds": embeds}, prompts)
    with pytest.raises(ModelError, match="a JSON list of 2 texts"):
        load_prompts(path)


def test_texts_may_be_missing(tmp_path, embeds):
    path = write(tmp_path / "p.safetensors", {"prompt_embeds": embeds}, prompts=None)
    assert load_prompts(path).texts == ("prompt 1", "prompt 2")


def test_what_encode_prompt_returns(embeds, mask):
    """Its own names, a batch of one negative prompt, None for a mask, and no conditioning."""
    prompts = prompts_of({
        "prompt_embeds": embeds, "negative_prompt_embeds": embeds[:1, :3] * 2,
        "pooled_prompt_embeds": embeds[:, 0], "negative_pooled_prompt_embeds": embeds[:1, 1],
        "prompt_attention_mask": mask, "negative_prompt_attention_mask": None,
        "text_ids": torch.zeros(5, 3),
    })  # fmt: skip
    assert set(prompts.tensors) == {
        "encoder_hidden_states", "pooled_projections", "encoder_attention_mask"
    }  # fmt: skip
    assert prompts.negative["encoder_hidden_states"].shape == (3, 16)
    assert torch.equal(prompts.negative["pooled_projections"], embeds[0, 1])
    # A prompt's mask says nothing of a text of another length.
    assert set(prompts.negative_rows([1])) == {"encoder_hidden_states", "pooled_projections"}
    assert prompts.shapes()["encoder_hidden_states"] == (5, 16)


def test_a_family_names_what_its_pipelines_call_otherwise(embeds, mask):
    of_pipeline = {"prompt_embeds": embeds, "prompt_embeds_mask": mask, "image_embeds": embeds}
    negative = {"negative_prompt_embeds_mask": mask[:1]}
    prompts = prompts_of(of_pipeline | negative)
    qwen, wan = (family.pipeline_names for family in (QwenImageFamily, WanFamily))
    assert set(prompts.named(qwen).tensors) == {
        "encoder_hidden_states", "encoder_hidden_states_mask", "image_embeds"
    }  # fmt: skip
    assert set(prompts.named(qwen).negative) == {"encoder_hidden_states_mask"}
    assert "encoder_hidden_states_image" in prompts.named(wan).tensors


def test_pickled_prompts_are_refused_with_the_remedy(tmp_path):
    torch.save({"prompt_embeds": torch.ones(1, 5, 16)}, tmp_path / "p.pt")
    with pytest.raises(ModelError, match="save_file"):
        load_prompts(tmp_path / "p.pt")


def test_saved_prompts_are_read_back(tmp_path, embeds, mask):
    tensors = {"encoder_hidden_states": embeds, "encoder_attention_mask": mask}
    prompts = Prompts(tuple(TEXTS), tensors, {"encoder_hidden_states": embeds[0, :2]})
    save_prompts(prompts, tmp_path / "p.safetensors")
    read = load_prompts(tmp_path / "p.safetensors")
    assert read.texts == prompts.texts
    for one, other in ((read.tensors, tensors), (read.negative, prompts.negative)):
        assert set(one) == set(other)
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_short_text_is_padded_where_a_mask_says_so(embeds, mask):
    short = {"encoder_hidden_states": embeds[:, :3]}
    made = complete_inputs(SPEC, short, 2)
    assert made["encoder_attention_mask"].tolist() == [[1, 1, 1, 0, 0]] * 2
    assert torch.equal(made["encoder_hidden_states"][:, :3], embeds[:, :3])
    masked = complete_inputs(SPEC, short | {"encoder_attention_mask": mask[:, :3]}, 2)
    assert masked["encoder_attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 0, 0, 0]]
    with pytest.raises(ModelError, match=r"shape \[2, 5, 16\]"):
        complete_inputs(SPEC[:1], short, 2)


def test_without_a_mask_every_token_exists(embeds):
    made = complete_inputs(SPEC, {"encoder_hidden_states": embeds}, 2)
    assert made["encoder_attention_mask"].tolist() == [[1] * 5] * 2


def test_defaults_are_filled_in_and_dtypes_are_the_spec_s(embeds, mask):
    tensors = {"encoder_hidden_states": embeds, "encoder_attention_mask": mask.bool()}
    made = complete_inputs(SPEC, tensors, 2)
    assert list(made) == [entry.name for entry in SPEC]
    assert made["encoder_attention_mask"].dtype is torch.int32
    assert made["guidance"].tolist() == [3.5, 3.5]


@pytest.mark.parametrize(
    ("change", "subject"),
    [
        ({"encoder_hidden_states": torch.ones(2, 6, 16)}, r"shape \[2, 5, 16\]"),
        ({"encoder_hidden_states": torch.ones(2, 5)}, r"shape \[2, 5, 16\]"),
        ({"encoder_attention_mask": torch.tensor([[1, 0, 1, 0, 0]] * 2)}, "at the end"),
        ({"encoder_attention_mask": torch.tensor([[0, 0, 0, 0, 0]] * 2)}, "at the end"),
        ({"encoder_attention_mask": torch.tensor([[2, 1, 0, 0, 0]] * 2)}, "other values"),
        ({"encoder_attention_mask": torch.full((2, 5), 0.5)}, "other values"),
        ({"image": torch.ones(2, 3)}, "also image"),
    ],
)
def test_conditioning_that_does_not_fit(embeds, mask, change, subject):
    tensors = {"encoder_hidden_states": embeds, "encoder_attention_mask": mask}
    with pytest.raises(ModelError, match=subject):
        complete_inputs(SPEC, tensors | change, 2)


def test_a_missing_tensor_is_named(mask):
    with pytest.raises(ModelError, match="a tensor encoder_hidden_states"):
        complete_inputs(SPEC, {"encoder_attention_mask": mask}, 2)


@pytest.mark.parametrize("padded", [False, True])
def test_made_up_inputs_fit_their_own_spec(padded):
    made = example_inputs(SPEC, 3, seed=1, padded=padded)
    complete_inputs(SPEC, made, 3)
    lengths = made["encoder_attention_mask"].sum(dim=1).tolist()
    assert lengths == ([5, 5, 4] if padded else [5, 5, 5])
