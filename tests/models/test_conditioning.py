"""Prompt files: what is read back, and what is refused."""

import json

import pytest
import torch
from safetensors.torch import save_file

from paro_trt.errors import ModelError
from paro_trt.models.conditioning import load_prompts, text_conditioning
from paro_trt.models.wan import WanFamily
from paro_trt.testing.tiny_wan import TEXT_DIM, TEXT_TOKENS, tiny_wan

TEXTS = ["a red circle", "a blue square, naïve"]


@pytest.fixture
def embeds():
    return torch.randn(2, 5, 16) + 0.3


def write(path, tensors, prompts=TEXTS):
    metadata = None if prompts is None else {"prompts": json.dumps(prompts)}
    save_file(tensors, path, metadata)
    return path


def test_prompts_are_read_back(tmp_path, embeds):
    negative = torch.randn(5, 16)
    path = write(
        tmp_path / "p.safetensors", {"prompt_embeds": embeds, "negative_prompt_embeds": negative}
    )
    prompts = load_prompts(path)
    assert prompts.texts == tuple(TEXTS)
    assert len(prompts) == 2
    assert torch.equal(prompts.embeds, embeds)
    assert torch.equal(prompts.negative, negative)


def test_half_precision_is_widened_and_negative_is_optional(tmp_path, embeds):
    path = write(tmp_path / "p.safetensors", {"prompt_embeds": embeds.half()})
    prompts = load_prompts(str(path))
    assert torch.equal(prompts.embeds, embeds.half().float())
    assert prompts.negative is None


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
        ({"other": torch.ones(2, 5, 16)}, "a tensor prompt_embeds"),
        ({"prompt_embeds": torch.ones(2, 5)}, "3 dimensions"),
        ({"prompt_embeds": torch.ones(2, 5, 16).int()}, "int32"),
        ({"prompt_embeds": torch.full((2, 5, 16), float("nan"))}, "NaN"),
        ({"prompt_embeds": torch.ones(2, 0, 16)}, "none empty"),
        (
            {"prompt_embeds": torch.ones(2, 5, 16), "negative_prompt_embeds": torch.ones(4, 16)},
            r"shape \[5, 16\]",
        ),
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


def test_text_conditioning_names_the_model_s_input():
    model = tiny_wan()
    embeds = torch.randn(2, TEXT_TOKENS, TEXT_DIM)
    conditioning = text_conditioning(WanFamily(), model.config, embeds)
    assert list(conditioning) == ["encoder_hidden_states"]
    assert conditioning["encoder_hidden_states"] is embeds
    with pytest.raises(ModelError, match=r"16 channels.*got 17.*text encoder"):
        text_conditioning(WanFamily(), model.config, torch.randn(2, TEXT_TOKENS, 17))
