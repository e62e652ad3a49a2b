"""What lies in a model directory, as users have it: loaded where that is safe, else named."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from paro_trt.errors import ModelError
from paro_trt.models.experts import ExpertRole
from paro_trt.models.load import load_model, load_partner
from tests.support.tiny_wan import tiny_wan

WEIGHTS = "diffusion_pytorch_model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 5000000\n"
SHARDS = "400KB"


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return tiny_wan(seed=5)


@pytest.fixture(scope="module")
def other() -> torch.nn.Module:
    return tiny_wan(seed=6)


@pytest.fixture
def directory(model: torch.nn.Module, tmp_path: Path) -> Path:
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def assert_loads(directory: Path, model: torch.nn.Module, **options: str) -> None:
    state = load_model(directory, **options).model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


def refusal(path: Path | str, **options: str) -> str:
    with pytest.raises(ModelError) as info:
        load_model(path, **options)
    assert "\n" not in str(info.value)
    assert info.value.remedy or info.value.expected
    return str(info.value)


def rewrite(directory: Path, change: Callable[[dict[str, Tensor]], Mapping[str, Tensor]]) -> None:
    file = directory / WEIGHTS
    save_file(dict(change(load_file(file))), file, metadata={"format": "pt"})


@pytest.mark.parametrize("shards", [None, SHARDS])
def test_the_only_variant_is_taken(
    model: torch.nn.Module, tmp_path: Path, shards: str | None
) -> None:
    options = {} if shards is None else {"max_shard_size": shards}
    model.save_pretrained(tmp_path, variant="fp16", **options)
    assert not (tmp_path / WEIGHTS).exists()
    assert_loads(tmp_path, model)


def test_of_several_checkpoints_the_one_without_variant_or_the_named_one(
    model: torch.nn.Module, other: torch.nn.Module, tmp_path: Path
) -> None:
    other.save_pretrained(tmp_path, variant="fp16")
    model.save_pretrained(tmp_path)
    assert_loads(tmp_path, model)
    assert_loads(tmp_path, other, variant="fp16")
    assert "variants: fp16" in refusal(tmp_path, variant="bf16")
    (tmp_path / WEIGHTS).rename(tmp_path / "diffusion_pytorch_model.bf16.safetensors")
    message = refusal(tmp_path)
    assert "model.bf16.safetensors, diffusion_pytorch_model.fp16.safetensors" in message
    assert "name the variant" in message


@pytest.mark.parametrize("options", [{}, {"max_shard_size": SHARDS}])
def test_pickled_weights_are_named(
    model: torch.nn.Module, tmp_path: Path, options: dict[str, str]
) -> None:
    model.save_pretrained(tmp_path, safe_serialization=False, **options)
    message = refusal(tmp_path)
    assert ".bin" in message
    assert "use_safetensors=False" in message


def written_at(second: int, *files: Path) -> None:
    for file in files:
        os.utime(file, (second, second))


def test_of_a_whole_checkpoint_and_shards_the_newer_is_taken_and_both_are_named(
    model: torch.nn.Module, other: torch.nn.Module, tmp_path: Path
) -> None:
    other.save_pretrained(tmp_path / "old", max_shard_size=SHARDS)
    model.save_pretrained(tmp_path / "new")
    shutil.copy(tmp_path / "new" / WEIGHTS, tmp_path / "old")
    whole, shards = tmp_path / "old" / WEIGHTS, sorted((tmp_path / "old").glob("*-of-*"))
    both = f"{WEIGHTS}, and {INDEX}"
    written_at(100, tmp_path / "old" / INDEX, *shards)
    written_at(101, whole)
    with pytest.warns(UserWarning, match=f"{both} .*whole file is newer"):
        assert_loads(tmp_path / "old", model)
    written_at(99, whole)
    with pytest.warns(UserWarning, match=f"{both} .*shards are newer"):
        assert_loads(tmp_path / "old", other)
    for time in (100, 101):
        written_at(time, whole, shards[0])
        assert both in refusal(tmp_path / "old")
    for shard in shards:
        shard.unlink()
    assert_loads(tmp_path / "old", model)


def test_shards_without_their_index_are_named(model: torch.nn.Module, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path, max_shard_size=SHARDS)
    (tmp_path / INDEX).unlink()
    assert "shards without their index" in refusal(tmp_path)


def test_a_tensor_of_two_files_is_refused(model: torch.nn.Module, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path, max_shard_size=SHARDS)
    first, second = sorted(tmp_path.glob("*-of-*"))[:2]
    name = next(iter(load_file(first)))
    save_file(load_file(second) | {name: torch.zeros(1)}, second)
    assert "another of this name" in refusal(tmp_path)


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_lfs_pointers_are_named(directory: Path, name: str) -> None:
    (directory / name).write_text(POINTER)
    assert "git lfs pull" in refusal(directory)


@pytest.mark.parametrize(
    ("start", "named"),
    [(b"GGUF", "GGUF"), (b"PK\x03\x04", "pickled"), (b"<!DOCTYPE html>", "web page")],
)
def test_files_of_other_formats_under_the_right_name_are_named(
    directory: Path, start: bytes, named: str
) -> None:
    (directory / WEIGHTS).write_bytes(start + bytes(100))
    assert named in refusal(directory)


def test_a_header_whose_length_begins_as_a_pickle_does(
    directory: Path, model: torch.nn.Module
) -> None:
    content = (directory / WEIGHTS).read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    length = 0x10280
    header = content[8:end].ljust(length)
    (directory / WEIGHTS).write_bytes(length.to_bytes(8, "little") + header + content[end:])
    assert (directory / WEIGHTS).read_bytes().startswith(b"\x80\x02")
    assert_loads(directory, model)


@pytest.mark.parametrize("name", ["wan2.1_t2v_fp16.safetensors", "wan.gguf", "wan.ckpt"])
def test_a_single_file_says_how_to_convert_it(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"GGUF" + bytes(60) if name.endswith("gguf") else bytes(64))
    assert "from_single_file" in refusal(tmp_path / name)


@pytest.mark.parametrize(
    "config", [{"_class_name": "WanModel", "dim": 1536}, {"model_type": "t2v", "dim": 1536}]
)
def test_the_authors_own_layout_says_how_to_convert_it(
    tmp_path: Path, config: dict[str, object]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "-Diffusers" in refusal(tmp_path)


def test_names_of_the_authors_own_layout_say_so(directory: Path) -> None:
    rewrite(directory, lambda _: {"blocks.0.self_attn.q.weight": torch.zeros(4, 4)})
    message = refusal(directory)
    assert "authors' own layout" in message
    assert "different models" not in message


def _with_adapters(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    name = "blocks.0.attn1.to_q"
    weight = weights.pop(f"{name}.weight")
    return weights | {
        f"{name}.base_layer.weight": weight,
        f"{name}.lora_A.default.weight": torch.zeros(4, 128),
        f"{name}.lora_B.default.weight": torch.zeros(128, 4),
    }


def test_adapters_that_were_left_in_the_file_are_named(directory: Path) -> None:
    rewrite(directory, _with_adapters)
    message = refusal(directory)
    assert "LoRA adapters" in message
    assert "unload_lora_weights" in message


def test_an_adapter_alone_is_not_a_model(directory: Path) -> None:
    rewrite(directory, lambda _: {"blocks.0.attn1.to_q.lora_A.weight": torch.zeros(4, 128)})
    assert "a LoRA adapter alone" in refusal(directory)
    (directory / WEIGHTS).rename(directory / "pytorch_lora_weights.safetensors")
    assert "a LoRA adapter, pytorch_lora_weights.safetensors" in refusal(directory)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda name: f"_orig_mod.{name}",
        lambda name: f"module.{name}",
        lambda name: f"module._orig_mod.{name}",
        lambda name: f"pipe.transformer.{name}",
        lambda name: name.replace("blocks.1.", "blocks.1._orig_mod."),
    ],
)
def test_prefixes_of_wrappers_are_taken_off(
    directory: Path, model: torch.nn.Module, wrap: Callable[[str], str]
) -> None:
    rewrite(directory, lambda weights: {wrap(name): t for name, t in weights.items()})
    assert_loads(directory, model)


def test_plain_8_bit_floats_load_as_the_values_they_are(directory: Path) -> None:
    cast: dict[str, Tensor] = {}

    def change(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        for name, tensor in weights.items():
            cast[name] = tensor.to(torch.float8_e4m3fn) if tensor.ndim == 2 else tensor
        return cast

    rewrite(directory, change)
    state = load_model(directory).model.state_dict()
    assert all(torch.equal(state[name], tensor.float()) for name, tensor in cast.items())


def test_quantized_weights_are_refused_by_what_they_are(directory: Path) -> None:
    name = "blocks.0.attn1.to_q.weight"
    rewrite(directory, lambda weights: weights | {name: weights[name].to(torch.int8)})
    assert "I8, which are not weights" in refusal(directory)
    rewrite(directory, lambda weights: weights | {f"{name}_scale": torch.ones(1)})
    assert "quantized weights and their scales" in refusal(directory)
    config = json.loads((directory / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes"}
    (directory / "config.json").write_text(json.dumps(config))
    assert "quantized by bitsandbytes" in refusal(directory)


def test_numbers_beyond_float16_are_refused_by_tensor(directory: Path) -> None:
    name = "blocks.1.ffn.net.2.weight"

    def change(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        weights[name][0, 0] = 7e4
        return weights

    rewrite(directory, change)
    load_model(directory, torch.bfloat16)
    with pytest.raises(ModelError, match=rf"{name}: expected numbers that float16 can hold"):
        load_model(directory, torch.float16)


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ("blocks.0.attn1.to_q.weight._data", "quantized weights and their scales"),
        ("blocks.0.attn1.to_q.weight_quantizer._amax", "quantized weights and their scales"),
        ("blocks.0.attn1.to_q.lokr_w1", "LoRA adapters that are still apart"),
    ],
)
def test_side_tensors_of_other_tools_are_named(directory: Path, extra: str, named: str) -> None:
    rewrite(directory, lambda weights: weights | {extra: torch.ones(1)})
    assert named in refusal(directory)


def test_a_directory_says_what_is_there_instead_of_weights(directory: Path) -> None:
    (directory / WEIGHTS).rename(directory / "README.md")
    assert "but README.md, config.json" in refusal(directory)
    (directory / "README.md").rename(directory / "wan-Q4.gguf")
    assert "GGUF file, whose weights are quantized, wan-Q4.gguf" in refusal(directory)


def test_config_with_a_byte_order_mark(directory: Path, model: torch.nn.Module) -> None:
    path = directory / "config.json"
    path.write_text("\ufeff" + path.read_text(), encoding="utf-8")
    assert_loads(directory, model)


def test_keys_that_the_class_does_not_know(directory: Path) -> None:
    path, identity = directory / "config.json", load_model(directory).identity
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"sample_size": 64, "use_later_thing": False}))
    with pytest.warns(UserWarning, match="'sample_size', 'use_later_thing'"):
        assert load_model(directory).identity == identity
    path.write_text(json.dumps(config | {"zero_cond_t_next": True}))
    assert "zero_cond_t_next" in refusal(directory)


def hub_cache(source: Path, root: Path, place: str = "transformer") -> Path:
    """The files of `source` as blobs, with a snapshot of links to them."""
    repository = root / "models--Wan-AI--Tiny"
    snapshot = repository / "snapshots" / "abc123" / place
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir(exist_ok=True)
    for file in sorted(source.iterdir()):
        blob = repository / "blobs" / f"{place}-{file.name}".encode().hex()
        file.rename(blob)
        (snapshot / file.name).symlink_to(Path("../../../blobs") / blob.name)
    return repository


def test_a_repository_of_the_hub_cache_names_its_snapshot(
    model: torch.nn.Module, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path / "plain", max_shard_size=SHARDS)
    repository = hub_cache(tmp_path / "plain", tmp_path)
    assert_loads(repository / "snapshots" / "abc123", model)
    assert "snapshots/abc123" in refusal(repository)
    next(repository.glob("blobs/*")).unlink()
    assert refusal(repository / "snapshots" / "abc123")


def test_a_hub_id_says_download() -> None:
    assert "hf download Wan-AI/Wan2.1-T2V" in refusal("Wan-AI/Wan2.1-T2V")


def experts_in(root: Path, model: torch.nn.Module, other: torch.nn.Module) -> dict[str, Path]:
    places = {}
    for name, expert in (("transformer", model), ("transformer_2", other)):
        places[name] = root / f"weights of {name}"
        expert.save_pretrained(places[name])
    return places


def test_experts_keep_their_roles_through_links(
    model: torch.nn.Module, other: torch.nn.Module, tmp_path: Path
) -> None:
    pipeline = tmp_path / "pipeline"
    pipeline.mkdir()
    (pipeline / "model_index.json").write_text(json.dumps({"boundary_ratio": 0.875}))
    for name, place in experts_in(tmp_path, model, other).items():
        (pipeline / name).symlink_to(place)
    high, low = (load_model(pipeline / name) for name in ("transformer", "transformer_2"))
    assert high.expert is not None
    assert low.expert is not None
    assert (high.expert.role, low.expert.role) == (ExpertRole.HIGH_NOISE, ExpertRole.LOW_NOISE)
    partner = load_partner(high)
    assert partner is not None
    assert partner.identity == low.identity
    assert torch.equal(
        partner.model.state_dict()["proj_out.weight"], other.state_dict()["proj_out.weight"]
    )


def test_a_link_to_an_expert_of_any_name_has_its_role(
    model: torch.nn.Module, other: torch.nn.Module, tmp_path: Path
) -> None:
    pipeline = tmp_path / "pipeline"
    pipeline.mkdir()
    (pipeline / "model_index.json").write_text(json.dumps({"boundary_ratio": 0.875}))
    for name, place in experts_in(tmp_path, model, other).items():
        place.rename(pipeline / name)
    link = tmp_path / "low noise"
    link.symlink_to(pipeline / "transformer_2")
    loaded = load_model(link)
    assert loaded.expert is not None
    assert loaded.expert.role is ExpertRole.LOW_NOISE
    partner = load_partner(loaded)
    assert partner is not None
    assert partner.expert is not None
    assert partner.expert.role is ExpertRole.HIGH_NOISE


def test_hard_links_are_the_files_they_are(
    directory: Path, model: torch.nn.Module, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in directory.iterdir():
        os.link(file, copy / file.name)
    assert_loads(copy, model)
