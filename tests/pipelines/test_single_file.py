"""A checkpoint in the names of Wan's authors, with its published pipeline in the cache."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from paro_trt.errors import ModelError
from paro_trt.pipelines.open import open_pipeline
from tests.pipelines.conftest import VIDEO, cache_entry

HUB_ID = "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers"
"""What diffusers takes a Wan checkpoint of unusual width for."""

AUTHORS = (
    ("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
    ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
    ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
    ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
    ("condition_embedder.time_proj", "time_projection.1"),
    (".to_out.0.", ".o."),
    (".to_q.", ".q."),
    (".to_k.", ".k."),
    (".to_v.", ".v."),
    ("attn1", "self_attn"),
    ("attn2", "cross_attn"),
    ("ffn.net.0.proj", "ffn.0"),
    ("ffn.net.2", "ffn.2"),
    ("proj_out", "head.head"),
    ("norm2", "norm__other"),
    ("norm3", "norm2"),
    ("norm__other", "norm3"),
)
"""Parts of a tensor's name: in diffusers, in the authors' checkpoint."""


def authors_name(name: str) -> str:
    """The tensor's name in the authors' checkpoint."""
    if name == "scale_shift_table":
        return "head.modulation"
    for own, theirs in (*AUTHORS, ("scale_shift_table", "modulation")):
        name = name.replace(own, theirs)
    return name


@pytest.fixture
def checkpoint(wan_dir: Path, tmp_path: Path) -> Path:
    """The Wan pipeline's transformer as one file, in bfloat16."""
    weights = load_file(wan_dir / "transformer" / "diffusion_pytorch_model.safetensors")
    path = tmp_path / "wan.safetensors"
    save_file({authors_name(name): value.bfloat16() for name, value in weights.items()}, path)
    return path


def test_a_checkpoint_opens_as_its_pipeline(
    checkpoint: Path,
    wan_dir: Path,
    hub_cache: Path,
) -> None:
    cache_entry(wan_dir, hub_cache, HUB_ID)
    pipe = open_pipeline(checkpoint, dtype=torch.float32)
    rounded = load_file(wan_dir / "transformer" / "diffusion_pytorch_model.safetensors")
    own = pipe.transformer.state_dict()
    assert own.keys() == rounded.keys()
    assert all(torch.equal(own[name], rounded[name].bfloat16().float()) for name in rounded)
    pipe.set_progress_bar_config(disable=True)
    assert pipe("a red ball", num_inference_steps=1, **VIDEO).frames.shape[1] == 5
    assert open_pipeline(checkpoint).transformer.dtype == torch.bfloat16


@pytest.mark.usefixtures("hub_cache")
def test_a_checkpoint_without_its_pipeline_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"hf download {HUB_ID}"):
        open_pipeline(checkpoint)
    other = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(2)}, other)
    with pytest.raises(ModelError, match="which is not there"):
        open_pipeline(other)
    other.write_bytes(b"no safetensors")
    with pytest.raises(ModelError, match=r"other\.safetensors"):
        open_pipeline(other)


def test_a_checkpoint_of_another_kind_of_model_is_refused(
    checkpoint: Path,
    flux_dir: Path,
    hub_cache: Path,
) -> None:
    """The cached pipeline has no such weights: diffusers' own words, in one error."""
    cache_entry(flux_dir, hub_cache, HUB_ID)
    with pytest.raises(ModelError, match=r"wan\.safetensors"):
        open_pipeline(checkpoint)
