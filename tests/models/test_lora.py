"""Adapters fused while weights are read: what diffusers' layouts mean, and strict names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from paro_trt.errors import ArgumentError, ModelError
from paro_trt.models.live import open_model
from paro_trt.models.load import load_model
from paro_trt.models.lora import LoraFile, parse_lora
from tests.support.tiny_wan import tiny_wan

MODULE, WIDTH, RANK = "blocks.1.attn1.to_q", 128, 4
WEIGHT = f"{MODULE}.weight"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    tiny_wan(seed=5).save_pretrained(path)
    return path


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return (
        torch.randn(RANK, WIDTH, generator=generator) + 0.1,
        torch.randn(WIDTH, RANK, generator=generator) - 0.1,
    )


def changed(directory: Path, *files: LoraFile) -> dict[str, Tensor]:
    """What the adapters add to each weight they change."""
    before = load_model(directory).model.state_dict()
    after = load_model(directory, lora=files).model.state_dict()
    return {
        name: after[name] - before[name]
        for name in before
        if not torch.equal(after[name], before[name])
    }


def assert_adds(directory: Path, file: LoraFile, expected: Tensor) -> None:
    difference = changed(directory, file)
    assert set(difference) == {WEIGHT}
    torch.testing.assert_close(difference[WEIGHT], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prefix", ["", "transformer.", "diffusion_model.", "base_model.model."])
@pytest.mark.parametrize(
    "ends", [("lora_A", "lora_B"), ("lora_A.default", "lora_B.default"), ("lora_down", "lora_up")]
)
def test_layouts_and_scale(
    directory: Path, tmp_path: Path, pair: tuple[Tensor, Tensor], prefix: str, ends: tuple[str, str]
) -> None:
    names = [f"{prefix}{MODULE}.{end}.weight" for end in ends]
    save_file(dict(zip(names, pair, strict=True)), tmp_path / "a.safetensors")
    assert_adds(directory, LoraFile(tmp_path / "a.safetensors", 0.5), 0.5 * pair[1] @ pair[0])


def test_names_of_the_authors_own_layout(
    directory: Path, tmp_path: Path, pair: tuple[Tensor, Tensor]
) -> None:
    stem = "diffusion_model.blocks.1.self_attn.q"
    save_file(
        {f"{stem}.lora_A.weight": pair[0], f"{stem}.lora_B.weight": pair[1]},
        tmp_path / "a.safetensors",
    )
    assert_adds(directory, LoraFile(tmp_path / "a.safetensors"), pair[1] @ pair[0])


def test_alpha_of_a_tensor_and_of_the_header(
    directory: Path, tmp_path: Path, pair: tuple[Tensor, Tensor]
) -> None:
    tensors = {f"{MODULE}.lora_A.weight": pair[0], f"{MODULE}.lora_B.weight": pair[1]}
    save_file(tensors | {f"{MODULE}.alpha": torch.tensor(2.0)}, tmp_path / "a.safetensors")
    assert_adds(directory, LoraFile(tmp_path / "a.safetensors"), 2 / RANK * pair[1] @ pair[0])
    header = {"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 8})}
    save_file(tensors, tmp_path / "b.safetensors", header)
    assert_adds(directory, LoraFile(tmp_path / "b.safetensors"), 8 / RANK * pair[1] @ pair[0])


def test_several_adapters_add_up(
    directory: Path, tmp_path: Path, pair: tuple[Tensor, Tensor]
) -> None:
    file = tmp_path / "a.safetensors"
    save_file({f"{MODULE}.lora_A.weight": pair[0], f"{MODULE}.lora_B.weight": pair[1]}, file)
    once = changed(directory, LoraFile(file))[WEIGHT]
    both = changed(directory, LoraFile(file), LoraFile(file, 2.0))[WEIGHT]
    torch.testing.assert_close(both, 3 * once, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "shapes", "said"),
    [
        (MODULE, ((RANK, WIDTH + 1), (WIDTH, RANK)), "a low-rank change of"),
        (MODULE, ((RANK, WIDTH), (WIDTH, RANK + 1)), "a low-rank change of"),
        ("blocks.9.attn1.to_q", ((RANK, WIDTH), (WIDTH, RANK)), "which the model does not have"),
    ],
)
def test_what_does_not_fit_is_named(
    directory: Path, tmp_path: Path, name: str, shapes: tuple[tuple[int, int], ...], said: str
) -> None:
    first, second = (torch.ones(shape) for shape in shapes)
    file = tmp_path / "a.safetensors"
    save_file({f"{name}.lora_A.weight": first, f"{name}.lora_B.weight": second}, file)
    with pytest.raises(ModelError, match=said):
        load_model(directory, lora=[LoraFile(file)])


@pytest.mark.parametrize("extra", [f"{MODULE}.diff_b", f"{MODULE}.dora_scale", "anything.else"])
def test_changes_of_other_kinds_are_refused(
    directory: Path, tmp_path: Path, pair: tuple[Tensor, Tensor], extra: str
) -> None:
    file = tmp_path / "a.safetensors"
    tensors = {f"{MODULE}.lora_A.weight": pair[0], f"{MODULE}.lora_B.weight": pair[1]}
    save_file(tensors | {extra: torch.zeros(1)}, file)
    with pytest.raises(ModelError, match=extra):
        load_model(directory, lora=[LoraFile(file)])


def test_a_directory_of_peft_with_its_settings(
    directory: Path, tmp_path: Path, pair: tuple[Tensor, Tensor]
) -> None:
    names = [f"base_model.model.{MODULE}.{end}.weight" for end in ("lora_A", "lora_B")]
    save_file(dict(zip(names, pair, strict=True)), tmp_path / "adapter_model.safetensors")
    assert_adds(directory, LoraFile(tmp_path), pair[1] @ pair[0])
    settings = tmp_path / "adapter_config.json"
    settings.write_text(json.dumps({"r": RANK, "lora_alpha": 8 * RANK}))
    for path in (tmp_path, tmp_path / "adapter_model.safetensors"):
        assert_adds(directory, LoraFile(path), 8 * pair[1] @ pair[0])
    settings.write_text(json.dumps({"r": RANK, "lora_alpha": RANK, "use_rslora": True}))
    with pytest.raises(ModelError, match="use_rslora"):
        load_model(directory, lora=[LoraFile(tmp_path)])


def test_directories_of_no_adapter_or_of_several(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="a directory without it"):
        load_model(directory, lora=[LoraFile(tmp_path)])
    for name in ("a.safetensors", "b.safetensors"):
        (tmp_path / name).touch()
    with pytest.raises(ModelError, match=r"got a\.safetensors, b\.safetensors; fix: pass"):
        load_model(directory, lora=[LoraFile(tmp_path)])


def test_files_that_are_no_adapter(directory: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    for content in (None, b"", b"GGUF" + bytes(60)):
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(ModelError, match=r"a\.safetensors: expected a LoRA"):
            load_model(directory, lora=[LoraFile(file)])
    save_file({"text_encoder.q.lora_A.weight": torch.zeros(2, 2)}, file)
    with pytest.raises(ModelError, match="no change of any of them"):
        load_model(directory, lora=[LoraFile(file)])


def test_a_live_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="fuse_lora"):
        open_model(tiny_wan(), lora=[LoraFile(tmp_path / "a")])


def test_option_text() -> None:
    assert parse_lora("a.safetensors") == LoraFile(Path("a.safetensors"))
    assert parse_lora("a.safetensors:0.5") == LoraFile(Path("a.safetensors"), 0.5)
    assert parse_lora("c:/a.safetensors") == LoraFile(Path("c:/a.safetensors"))
    with pytest.raises(ArgumentError, match="finite"):
        parse_lora("a.safetensors:nan")
