"""Prompt files and a model's conditioning: what is read back, filled in, and refused."""

import json

import pytest
import torch
from safetensors.torch import save_file

from paro_trt.errors import ModelError
from paro_trt.families.base import ConditioningInput, Role
from paro_trt.models.conditioning import complete_inputs, example_inputs
from paro_trt.models.prompts import load_prompts

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
        ({"x": torch.ones(2, 5, 16), "negative.x": torch.ones(4, 16)}, r"shape \[5, 16\]"),
        ({"x": torch.ones(2, 5), "negative.y": torch.ones(5)}, "no tensor"),
    ],
)
def test_wrong_tensors(tmp_path, tensors, subject):
    with pytest.raises(ModelError, match=subject):
        load_prompts(write(tmp_path / "p.safetensors", tensors))


@pytest.mark.parametrize("prompts", [None, ["one"], "two texts", [1, 2], {"a": 1}])
def test_wrong_texts(tmp_path, embeds, prompts):
    path = write(tmp_path / "p.safetensors", {"prompt_embeds": embeds}, prompts)
    with pytest.raises(ModelError, match="a JSON list of 2 texts"):
        load_prompts(path)


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


def test_a_missing_tensor_is_named(embeds):
    with pytest.raises(ModelError, match="a tensor encoder_attention_mask"):
        complete_inputs(SPEC, {"encoder_hidden_states": embeds}, 2)


@pytest.mark.parametrize("padded", [False, True])
def test_made_up_inputs_fit_their_own_spec(padded):
    made = example_inputs(SPEC, 3, seed=1, padded=padded)
    complete_inputs(SPEC, made, 3)
    lengths = made["encoder_attention_mask"].sum(dim=1).tolist()
    assert lengths == ([5, 5, 4] if padded else [5, 5, 5])
