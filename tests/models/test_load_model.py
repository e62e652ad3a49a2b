"""Loading from a directory: equal to what was saved, and one clear line for whatever is wrong."""

import json
import os

import pytest
import torch

from paro_trt.errors import ModelError
from paro_trt.families.base import Geometry
from paro_trt.families.wan import WanFamily
from paro_trt.models.load import load_model
from paro_trt.plan import Grid, model_identity
from tests.support.tiny_wan import tiny_wan, tiny_wan_inputs

WEIGHTS = "diffusion_pytorch_model.safetensors"
GEOMETRY = Geometry(Grid(2, 8, 8))


@pytest.fixture(scope="module")
def model():
    return tiny_wan(seed=5)


@pytest.fixture
def directory(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def sharded(model, tmp_path):
    model.save_pretrained(tmp_path / "sharded", max_shard_size="400KB")
    return tmp_path / "sharded"


def change_config(directory, **changes):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def assert_one_line(error):
    assert "\n" not in str(error)


def test_loaded_model_equals_the_saved(model, directory):
    loaded = load_model(directory)
    latents, timestep, conditioning = tiny_wan_inputs(2)
    (expected,) = loaded.family.forward(model, GEOMETRY, latents, timestep, conditioning)
    assert torch.equal(loaded.velocity(GEOMETRY)(latents, timestep, conditioning), expected)
    assert loaded.path == directory
    assert loaded.identity == model_identity("WanTransformer3DModel", model.config)
    assert not loaded.model.training


def test_sharded_weights_and_pipeline_directories(model, sharded, tmp_path):
    pipeline = tmp_path / "pipeline"
    pipeline.mkdir()
    sharded.rename(pipeline / "transformer")
    loaded = load_model(str(pipeline))
    assert loaded.path == pipeline / "transformer"
    state = loaded.model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


def test_bfloat16_keeps_what_the_class_keeps_in_float32(directory):
    loaded = load_model(directory, torch.bfloat16)
    dtypes = {name: p.dtype for name, p in loaded.model.named_parameters()}
    assert dtypes["blocks.0.attn1.to_q.weight"] is torch.bfloat16
    assert dtypes["blocks.0.scale_shift_table"] is torch.float32
    inputs = tiny_wan_inputs(1)
    exact = load_model(directory).velocity(GEOMETRY)(*inputs)
    error = loaded.velocity(GEOMETRY)(*inputs) - exact
    assert 0 < error.abs().max() < 0.1


def test_loading_leaves_weight_initialization_as_it_was(directory):
    load_model(directory)
    assert torch.nn.Linear(4, 4).weight.abs().max() <= 0.5


def test_defaults_absent_from_config_json_do_not_change_the_identity(directory):
    identity = load_model(directory).identity
    config = json.loads((directory / "config.json").read_text())
    del config["image_dim"], config["eps"], config["_diffusers_version"]
    (directory / "config.json").write_text(json.dumps(config))
    assert load_model(directory).identity == identity


def test_missing_directory_and_file(directory, tmp_path):
    with pytest.raises(ModelError, match="no such directory") as info:
        load_model(tmp_path / "absent")
    assert_one_line(info.value)
    with pytest.raises(ModelError, match="got a file"):
        load_model(directory / WEIGHTS)
    with pytest.raises(ModelError, match=r"config\.json in it"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "null", '"x"', "\xff", "[" * 100_000, "1" * 5000, '{"a": NaN}']
)
def test_config_that_is_no_object_or_names_no_class(directory, text):
    (directory / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(ModelError, match=r"config\.json") as info:
        load_model(directory)
    assert_one_line(info.value)


def test_config_too_large(directory, monkeypatch):
    monkeypatch.setattr("paro_trt.models.contents.LARGEST_JSON", 100)
    with pytest.raises(ModelError, match="a larger file"):
        load_model(directory)


@pytest.mark.parametrize("class_name", [None, 3, "UNet2DModel", "torch", "x" * 10_000])
def test_unknown_family(directory, class_name):
    change_config(directory, _class_name=class_name)
    with pytest.raises(ModelError, match=r"_class_name.*WanTransformer3DModel") as info:
        load_model(directory)
    assert len(str(info.value)) < 800


def test_class_that_the_installed_diffusers_lacks(directory, monkeypatch):
    monkeypatch.setattr(WanFamily, "class_names", ("WanTransformer9DModel",))
    change_config(directory, _class_name="WanTransformer9DModel")
    message = "diffusers: expected a version that has WanTransformer9DModel.*pip install --upgrade"
    with pytest.raises(ModelError, match=message) as info:
        load_model(directory)
    assert_one_line(info.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"ffn_dim": 128},
        {"num_layers": 3},
        {"num_layers": 1},
        {"num_attention_heads": 1024, "attention_head_dim": 1024},
        {"cross_attn_norm": False},
        {"attention_head_dim": 63},
        {"eps": "small"},
    ],
    ids=str,
)
def test_config_and_weights_of_different_models(directory, changes):
    change_config(directory, **changes)
    with pytest.raises(ModelError) as info:
        load_model(directory)
    assert_one_line(info.value)


def test_missing_weights(directory):
    (directory / WEIGHTS).unlink()
    with pytest.raises(ModelError, match=f"{WEIGHTS}.*no such file"):
        load_model(directory)


@pytest.mark.parametrize("keep", [0, 7, 1000, -100])
def test_truncated_weights(directory, keep):
    path = directory / WEIGHTS
    os.truncate(path, keep % path.stat().st_size)
    with pytest.raises(ModelError, match=f"{WEIGHTS}.*complete safetensors") as info:
        load_model(directory)
    assert_one_line(info.value)


def test_missing_shard_is_named(sharded):
    shard = sorted(sharded.glob("*-00002-of-*.safetensors"))[0]
    shard.unlink()
    with pytest.raises(ModelError, match=f"{shard.name}.*no such file"):
        load_model(sharded)


@pytest.mark.parametrize(
    "index",
    ["{", "{}", '{"weight_map": {"a": "../x.safetensors"}}', '{"weight_map": {"a": 3}}'],
)
def test_hostile_shard_index(sharded, index):
    (sharded / f"{WEIGHTS}.index.json").write_text(index)
    with pytest.raises(ModelError, match=r"index\.json") as info:
        load_model(sharded)
    assert_one_line(info.value)
