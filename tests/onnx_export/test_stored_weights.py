"""Exports of models whose weights stay in their files: the same files, in little memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import paro_trt
from paro_trt.cli.app import app
from paro_trt.errors import ModelError
from paro_trt.families.registry import FAMILIES
from paro_trt.models.load import load_model
from paro_trt.models.lora import LoraFile
from paro_trt.onnx_export import export_onnx, export_resolutions
from paro_trt.onnx_file.describe import describe_onnx
from paro_trt.onnx_file.source import read_source
from paro_trt.plan import model_identity, save_plan
from paro_trt.runtime.onnxruntime_session import OrtSession
from tests.support.plans import small_plan
from tests.support.tiny import TinyModel, variants_of
from tests.support.tiny_wan import tiny_wan

TINY = variants_of("wan")[0]
SHARDS = "200KB"


def saved(tiny: TinyModel, directory: Path, seed: int = 0) -> Path:
    tiny.build(seed).save_pretrained(directory, max_shard_size=SHARDS)
    return directory


def assert_same_file(tiny: TinyModel, tmp_path: Path, dtype: torch.dtype) -> None:
    """What is written does not depend on where the weights were meanwhile."""
    directory, plan = saved(tiny, tmp_path / "model"), tiny.plan()
    files = []
    for in_files in (False, True):
        folder = tmp_path / str(in_files)
        folder.mkdir()
        loaded = load_model(directory, dtype, weights_in_files=in_files)
        report = export_onnx(loaded, plan, folder / "m.onnx", external_data=True)
        files.append((report.path.read_bytes(), (folder / "m.onnx.data").read_bytes()))
    assert files[0] == files[1]


@pytest.mark.long
def test_file_is_the_same_as_of_a_model_in_memory(tmp_path: Path) -> None:
    assert_same_file(TINY, tmp_path, torch.float16)


@pytest.mark.long
@pytest.mark.parametrize("family", [f.name for f in FAMILIES if f.name != "wan"])
def test_file_of_every_family_is_the_same(family: str, tmp_path: Path) -> None:
    tiny = variants_of(family)[0]
    if not tiny.available:
        pytest.skip("a class of a newer diffusers")
    assert_same_file(tiny, tmp_path, torch.float32)


@pytest.mark.long
def test_an_adapter_is_fused_into_the_file(tmp_path: Path) -> None:
    """By the command line: verified with the adapter, refused without it."""
    directory, module = saved(TINY, tmp_path / "model"), "blocks.0.attn1.to_out.0"
    width = load_model(directory).model.get_parameter(f"{module}.weight").shape[0]
    first, second = torch.randn(4, width), torch.randn(width, 4)
    pair = {f"{module}.lora_A.weight": first, f"{module}.lora_B.weight": second}
    save_file(pair, tmp_path / "lora.safetensors")
    plan = TINY.plan(density=1.0, qk_bits=16, pv_bits=16)
    save_plan(plan, tmp_path / "plan")
    given = [
        "export", directory, "--plan", tmp_path / "plan", "-o", tmp_path / "m.onnx",
        "--dtype", "float32", "--lora", f"{tmp_path / 'lora.safetensors'}:2",
    ]  # fmt: skip
    done = CliRunner().invoke(app, [str(word) for word in given])
    assert done.exit_code == 0, done.stderr
    settings = {"samples": 1, "steps": 2, "plan": plan}
    adapter = LoraFile(tmp_path / "lora.safetensors", 2.0)
    assert paro_trt.verify(tmp_path / "m.onnx", directory, lora=[adapter], **settings).ok
    assert not paro_trt.verify(tmp_path / "m.onnx", directory, **settings).ok


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two resolutions that share their weights; the first file."""
    root = tmp_path_factory.mktemp("shared")
    loaded = load_model(saved(TINY, root / "model", seed=3), weights_in_files=True)
    plans = [TINY.plan(odd=odd) for odd in (False, True)]
    reports = export_resolutions(loaded, plans, root / "m.onnx")
    return reports[0].path


def test_weights_keep_the_names_of_the_checkpoint_and_its_values(exported: Path) -> None:
    state = load_model(exported.parent / "model").model.state_dict()
    model = onnx.load(exported)
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    compared = 0
    for name, expected in state.items():
        tensor = found.get(f"model.{name}")
        if tensor is None:
            continue  # folded into another constant
        actual = torch.from_numpy(numpy_helper.to_array(tensor).copy())
        transposed = actual.T if actual.ndim == 2 else actual
        assert torch.equal(actual, expected) or torch.equal(transposed, expected), name
        compared += 1
    assert compared > 0.8 * len(state)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    assert (exported.parent / "m.onnx.data").stat().st_size < 1.5 * weights + (1 << 20)


def test_a_model_without_its_weights_cannot_be_run(tmp_path: Path) -> None:
    loaded = load_model(saved(TINY, tmp_path / "model"), weights_in_files=True)
    with pytest.raises(ModelError, match="for tracing alone"):
        loaded.velocity(TINY.geometry())


def test_a_shard_that_vanishes_during_the_export_leaves_nothing(tmp_path: Path) -> None:
    loaded = load_model(saved(TINY, tmp_path / "model"), weights_in_files=True)

    def vanish(message: str) -> None:
        if message == "writing":
            sorted((tmp_path / "model").glob("*-of-*"))[-1].unlink()

    with pytest.raises(ModelError, match="of-"):
        export_onnx(loaded, TINY.plan(), tmp_path / "m.onnx", progress=vanish)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_a_number_beyond_float16_leaves_nothing(tmp_path: Path) -> None:
    tiny_wan().save_pretrained(tmp_path / "model")
    file = tmp_path / "model" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["blocks.1.ffn.net.2.weight"][0, 0] = 1e5
    save_file(weights, file)
    loaded = load_model(tmp_path / "model", torch.float16, weights_in_files=True)
    with pytest.raises(ModelError, match=r"blocks\.1\.ffn\.net\.2\.weight.*float16"):
        export_onnx(loaded, small_plan(model=loaded.identity), tmp_path / "m.onnx")
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("kind", ["hard links", "hub cache"])
def test_links_to_a_file_and_its_data_behave_as_the_files(
    exported: Path, tmp_path: Path, kind: str
) -> None:
    place = tmp_path / "snapshots" / "abc"
    place.mkdir(parents=True)
    for number, name in enumerate((exported.name, "m.onnx.data")):
        blob = tmp_path / "blobs" / str(number)
        blob.parent.mkdir(exist_ok=True)
        os.link(exported.parent / name, blob)
        if kind == "hard links":
            os.link(blob, place / name)
        else:
            (place / name).symlink_to(Path("../../blobs") / str(number))
    linked = place / exported.name
    assert describe_onnx(linked)["paro_attention"] == describe_onnx(exported)["paro_attention"]
    assert read_source(linked).sha256 == read_source(exported).sha256
    with OrtSession(linked, threads=1) as session:
        assert session.outputs[0].name == "sample"


_EXPORT = """
import pathlib, re, sys, threading, time
import torch
import paro_trt
from paro_trt.plan import load_plan
highest, finished = 0, False
def watch():
    global highest
    while not finished:
        status = pathlib.Path("/proc/self/status").read_text()
        highest = max(highest, int(re.search(r"RssAnon:\\s+(\\d+)", status)[1]) * 1024)
        time.sleep(0.02)
watcher = threading.Thread(target=watch)
watcher.start()
try:
    plan = load_plan(sys.argv[2])
    paro_trt.export(sys.argv[1], plan, sys.argv[3], dtype=torch.float16, external_data=True)
finally:
    finished = True
    watcher.join()
print("highest", highest)
"""

WAN_14B = {
    "patch_size": (1, 2, 2), "num_attention_heads": 40, "attention_head_dim": 128,
    "in_channels": 16, "out_channels": 16, "text_dim": 4096, "freq_dim": 256, "ffn_dim": 13824,
    "cross_attn_norm": True, "qk_norm": "rms_norm_across_heads", "rope_max_seq_len": 1024,
}  # fmt: skip
RELEASED_LAYERS = 40


def wan_14b(directory: Path, layers: int) -> Path:
    """Wan 2.1 14B with fewer layers: random bfloat16 weights, a shard for each layer."""
    from diffusers import WanTransformer3DModel

    directory.mkdir()
    config = WAN_14B | {"num_layers": layers}
    with torch.device("meta"):
        model = WanTransformer3DModel(**config)
    shards: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in model.state_dict().items():
        part = name.split(".")[1] if name.startswith("blocks.") else "rest"
        shards.setdefault(f"{part}.safetensors", {})[name] = tensor
    index = {name: shard for shard, tensors in shards.items() for name in tensors}
    for shard, tensors in shards.items():
        save_file(
            {
                name: torch.empty(tensor.shape, dtype=torch.bfloat16).uniform_(-0.05, 0.05)
                for name, tensor in tensors.items()
            },
            directory / shard,
        )
    (directory / "config.json").write_text(
        json.dumps({"_class_name": "WanTransformer3DModel", **config})
    )
    (directory / "diffusion_pytorch_model.safetensors.index.json").write_text(
        json.dumps({"weight_map": index})
    )
    return directory


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_memory_of_exporting_wan_14b(tmp_path: Path) -> None:
    """bfloat16 on disk to float16, at 480p: at most 4 GB of anonymous memory for all 40 layers."""
    highest = {}
    for layers in (1, 3):
        directory = wan_14b(tmp_path / f"model{layers}", layers)
        plan = small_plan(
            model=model_identity("WanTransformer3DModel", WAN_14B | {"num_layers": layers}),
            heads=40, layers=layers, head_dim=128, block_q=128,
            layer_names=tuple(f"blocks.{layer}.attn1" for layer in range(layers)),
        )  # fmt: skip
        save_plan(plan, tmp_path / "plan")
        done = subprocess.run(
            [sys.executable, "-c", _EXPORT, directory, tmp_path / "plan", tmp_path / "m.onnx"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        highest[layers] = int(done.stdout.rpartition("highest ")[2])
        assert (tmp_path / "m.onnx.data").stat().st_size > layers * 700_000_000
    slope = (highest[3] - highest[1]) / 2
    whole = highest[3] + slope * (RELEASED_LAYERS - 3)
    print(
        f"anonymous memory: {highest}, {slope / 1e6:.0f} MB a layer, 40 layers {whole / 1e9:.2f} GB"
    )
    assert whole < 4e9
