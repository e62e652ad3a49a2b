"""Opening a pipeline: by directory, hub id, cache entry, checkpoint or live; and every refusal."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import paro_trt
from paro_trt.errors import ArgumentError, ModelError
from paro_trt.models.apply import config_of
from paro_trt.models.experts import ExpertRole
from paro_trt.pipelines.open import load_pipeline, open_pipeline
from paro_trt.pipelines.transformers import check_transformers, transformers_of
from paro_trt.plan import model_identity
from tests.pipelines.conftest import VIDEO, cache_entry, wan_pipeline
from tests.support.pipelines import pipeline_of
from tests.support.tiny_wan import tiny_wan

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def copy(wan_dir: Path, tmp_path: Path) -> Path:
    """The Wan pipeline's directory, to be damaged."""
    path = tmp_path / "copy"
    shutil.copytree(wan_dir, path)
    return path


def rewrite(path: Path, **changes: object) -> None:
    """Change entries of a JSON object in a file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def same_weights(pipe: object, pipeline: Path) -> bool:
    """Whether the transformer has the weights of a directory."""
    stored = load_file(pipeline / "transformer" / WEIGHTS)
    own = transformers_of(pipe)[ExpertRole.HIGH_NOISE].state_dict()
    return own.keys() == stored.keys() and all(torch.equal(own[k], stored[k]) for k in stored)


def test_a_directory_opens_and_samples(wan_dir: Path) -> None:
    pipe = open_pipeline(wan_dir)
    assert type(pipe).__name__ == "WanPipeline"
    assert same_weights(pipe, wan_dir)
    pipe.set_progress_bar_config(disable=True)
    frames = pipe("a red circle", num_inference_steps=1, **VIDEO).frames
    assert frames.shape == (1, 5, 128, 128, 3)


def test_a_pipeline_of_one_variant_opens(wan_dir: Path, copy: Path) -> None:
    part = copy / "transformer"
    (part / WEIGHTS).rename(part / "diffusion_pytorch_model.fp16.safetensors")
    assert same_weights(open_pipeline(copy), wan_dir)


def test_an_image_pipeline_opens(flux_dir: Path) -> None:
    assert type(open_pipeline(str(flux_dir), device="cpu")).__name__ == "FluxPipeline"


def test_a_live_pipeline_is_used_as_it_is() -> None:
    pipe = wan_pipeline()
    assert open_pipeline(pipe) is pipe
    with pytest.raises(ArgumentError, match=r"pipe.to"):
        open_pipeline(pipe, dtype=torch.bfloat16)
    with pytest.raises(ArgumentError, match="a diffusers pipeline, got Tensor"):
        open_pipeline(torch.zeros(1))


def test_a_hub_id_and_a_cache_entry_are_found_in_the_cache(wan_dir: Path, hub_cache: Path) -> None:
    entry = cache_entry(wan_dir, hub_cache, "someone/tiny-wan")
    assert same_weights(open_pipeline("someone/tiny-wan"), wan_dir)
    assert same_weights(open_pipeline(entry), wan_dir)
    shutil.copytree(wan_dir, entry / "snapshots" / ("1" * 40))
    (entry / "refs" / "main").unlink()
    with pytest.raises(ModelError, match=f"pass .*{'0' * 40} or .*{'1' * 40}"):
        open_pipeline(entry)


def test_what_is_not_cached_is_refused_and_not_downloaded(hub_cache: Path) -> None:
    with pytest.raises(ModelError, match="hf download someone/absent"):
        open_pipeline("someone/absent")
    entry = hub_cache / "models--someone--absent" / "snapshots" / ("0" * 40)
    entry.mkdir(parents=True)
    with pytest.raises(ModelError, match=r"no model_index.json in"):
        open_pipeline("someone/absent")
    with pytest.raises(ModelError, match="download the whole pipeline"):
        open_pipeline(entry.parent.parent)


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
def test_dtype_auto_is_that_of_the_weights_on_disk(stored: torch.dtype, copy: Path) -> None:
    path = copy / "transformer" / WEIGHTS
    weights = {name: tensor.to(stored) for name, tensor in load_file(path).items()}
    weights["proj_out.bias"] = weights["proj_out.bias"].double()
    save_file(weights, path)
    pipe = open_pipeline(copy)
    # A CPU computes float16 far slower than float32.
    expected = torch.float32 if stored is torch.float16 else stored
    assert {pipe.transformer.dtype, pipe.vae.dtype, pipe.text_encoder.dtype} == {expected}


def test_float16_stays_where_a_gpu_computes(copy: Path) -> None:
    path = copy / "transformer" / WEIGHTS
    save_file({name: tensor.half() for name, tensor in load_file(path).items()}, path)
    assert load_pipeline(copy, device=torch.device("cuda")).transformer.dtype is torch.float16
    assert load_pipeline(copy, torch.float16).transformer.dtype is torch.float16


def test_dtype_and_device_options(wan_dir: Path) -> None:
    assert open_pipeline(wan_dir, dtype=torch.bfloat16).transformer.dtype == torch.bfloat16
    for bad in ("bfloat16", torch.int8, torch.float8_e4m3fn):
        with pytest.raises(ArgumentError, match="dtype"):
            open_pipeline(wan_dir, dtype=bad)
    for bad in ("tpu", "cuda:x", "cuda0"):
        with pytest.raises(ArgumentError, match="auto, cpu, cuda or cuda:N"):
            open_pipeline(wan_dir, device=bad)
    with pytest.raises(ArgumentError, match="offload: expected one of none, model, group"):
        open_pipeline(wan_dir, offload="disk")
    with pytest.raises(ArgumentError, match="none on a CPU"):
        open_pipeline(wan_dir, device="cpu", offload="group")


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without CUDA says")
def test_cuda_without_a_gpu_is_refused(wan_dir: Path) -> None:
    with pytest.raises(ArgumentError, match="sees no GPUs"):
        open_pipeline(wan_dir, device="cuda")


def test_shells_have_no_weights(wan_dir: Path) -> None:
    pipe = load_pipeline(wan_dir, shells=[ExpertRole.HIGH_NOISE])
    assert {parameter.device.type for parameter in pipe.transformer.parameters()} == {"meta"}
    own, saved = (config_of(model) for model in (pipe.transformer, tiny_wan(seed=1)))
    name = "WanTransformer3DModel"
    assert model_identity(name, own) == model_identity(name, saved)
    assert pipe.vae.device.type == "cpu"


def test_directories_that_are_no_pipeline(wan_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"pass {wan_dir}"):
        open_pipeline(wan_dir / "transformer")
    with pytest.raises(ModelError, match="a directory without it"):
        open_pipeline(tmp_path)
    with pytest.raises(ModelError, match="no such file or directory"):
        open_pipeline(tmp_path / "none" / "at" / "all")
    with pytest.raises(ModelError, match=f"did you mean {wan_dir}"):
        open_pipeline(f"{wan_dir}s")
    (tmp_path / "weights.gguf").touch()
    with pytest.raises(ModelError, match="GGUF"):
        open_pipeline(tmp_path / "weights.gguf")
    (tmp_path / "weights.ckpt").touch()
    with pytest.raises(ModelError, match=r"a \.ckpt file"):
        open_pipeline(tmp_path / "weights.ckpt")


def test_unknown_classes_are_named(copy: Path) -> None:
    index = copy / "model_index.json"
    rewrite(index, _class_name="WanderPipeline")
    with pytest.raises(ModelError, match="'WanderPipeline'"):
        open_pipeline(copy)
    rewrite(index, _class_name="WanPipeline", transformer=["diffusers", "PixArtTransformer2DModel"])
    with pytest.raises(ModelError, match=r"a known model class .*WanTransformer3DModel"):
        open_pipeline(copy)
    rewrite(index, transformer=[None, None], unet=["diffusers", "UNet2DConditionModel"])
    with pytest.raises(ModelError, match="WanPipeline without one"):
        open_pipeline(copy)
    index.write_text("[]")
    with pytest.raises(ModelError, match="JSON"):
        open_pipeline(copy)


def test_damaged_components_are_one_error(copy: Path) -> None:
    weights = copy / "transformer" / WEIGHTS
    os.truncate(weights, weights.stat().st_size // 2)
    with pytest.raises(ModelError, match="a complete safetensors file"):
        open_pipeline(copy)
    weights.unlink()
    with pytest.raises(ModelError, match="no such file"):
        open_pipeline(copy)
    save_file(tiny_wan(num_layers=3).state_dict(), weights)
    shutil.rmtree(copy / "vae")
    with pytest.raises(ModelError, match=r"a pipeline that diffusers .* loads"):
        open_pipeline(copy)


def test_quantized_weights_are_refused_by_name(copy: Path) -> None:
    config = copy / "transformer" / "config.json"
    rewrite(config, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    with pytest.raises(ModelError, match="quantized by bitsandbytes"):
        open_pipeline(copy)
    rewrite(config, quantization_config=None)
    path = copy / "transformer" / WEIGHTS
    stored = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in load_file(path).items()}
    save_file(stored, path)
    with pytest.raises(ModelError, match="F8_E4M3"):
        open_pipeline(copy)


def test_quantized_live_transformers_are_refused_by_name() -> None:
    pipe = wan_pipeline()
    pipe.transformer.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)
    with pytest.raises(ModelError, match="layerwise casting to float8_e4m3fn"):
        open_pipeline(pipe)
    pipe = wan_pipeline()
    pipe.transformer.quantization_method = "torchao"
    with pytest.raises(ModelError, match=r"WanPipeline.transformer: .*quantized by torchao"):
        open_pipeline(pipe)
    linear = type("Linear4bit", (torch.nn.Linear,), {"__module__": "bitsandbytes.nn.modules"})
    pipe = wan_pipeline()
    pipe.transformer.blocks[0].attn1.to_q = linear(128, 128)
    with pytest.raises(ModelError, match="quantized by bitsandbytes"):
        open_pipeline(pipe)


def test_a_compiled_transformer_is_unwrapped() -> None:
    pipe = wan_pipeline()
    inner = pipe.transformer
    pipe.transformer = torch.compile(inner, backend="eager")
    assert transformers_of(open_pipeline(pipe)) == {ExpertRole.HIGH_NOISE: inner}


def test_transformers_of_two_experts_and_of_none() -> None:
    low = tiny_wan(seed=2)
    pipe = wan_pipeline(transformer_2=low, boundary_ratio=0.9)
    assert list(transformers_of(pipe)) == [ExpertRole.HIGH_NOISE, ExpertRole.LOW_NOISE]
    assert [family.name for family in check_transformers(pipe).values()] == ["wan", "wan"]
    with pytest.raises(ModelError, match=r"a pipeline with a transformer|one without"):
        transformers_of(wan_pipeline(transformer=None))


@pytest.mark.parametrize("name", ["FluxKontextPipeline", "FluxKontextInpaintPipeline"])
def test_a_pipeline_of_reference_tokens_is_refused_by_name(
    flux_dir: Path, tmp_path: Path, name: str
) -> None:
    """Before weights are read, and on embeddings as well: a plan would be of half the sequence."""
    path = tmp_path / "kontext"
    shutil.copytree(flux_dir, path)
    rewrite(path / "model_index.json", _class_name=name)
    for file in path.glob("*/*.safetensors"):
        file.unlink()
    with pytest.raises(ModelError, match=rf"{name}: .*reference image"):
        open_pipeline(path)
    shutil.copy(flux_dir / "transformer" / WEIGHTS, path / "transformer" / WEIGHTS)
    tiny = pipeline_of("flux-dev").tiny
    with pytest.raises(ModelError, match=rf"{name}: .*reference image"):
        paro_trt.calibrate(
            path, tiny.prompts(1), latents=tiny.latent_size, output=tmp_path / "plan"
        )
    assert not list(tmp_path.glob("plan*"))


def test_keys_that_the_transformers_class_does_not_know(copy: Path) -> None:
    config = copy / "transformer" / "config.json"
    rewrite(config, new_width=3)
    with pytest.warns(UserWarning, match="new_width"):
        open_pipeline(copy)
    rewrite(config, new_switch=True)
    with pytest.raises(ModelError, match="new_switch"):
        open_pipeline(copy)
