"""Opening a directory, a module or a pipeline gives the same model; anything else is refused."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import paro_trt
from paro_trt.errors import ArgumentError, ModelError
from paro_trt.models.live import open_model
from paro_trt.models.load import load_model, released_dtype
from tests.support.plans import small_plan
from tests.support.tiny_wan import LATENT_SHAPE, TEXT_DIM, TEXT_TOKENS, tiny_wan


@pytest.fixture(scope="module")
def pipeline_directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("pipeline")
    tiny_wan(seed=3).save_pretrained(directory / "transformer")
    return directory


def reopened(pipeline_directory):
    from diffusers import WanTransformer3DModel

    return WanTransformer3DModel.from_pretrained(pipeline_directory / "transformer")


def test_every_kind_of_source_has_the_identity_of_the_directory(pipeline_directory):
    loaded = load_model(pipeline_directory)
    module = reopened(pipeline_directory)
    pipeline = SimpleNamespace(transformer=module, transformer_2=None)
    for source in (pipeline_directory, str(pipeline_directory), loaded, module, pipeline):
        opened = open_model(source)
        assert opened.identity == loaded.identity
        assert opened.family is loaded.family
        assert opened.dtype == torch.float32
    assert open_model(pipeline).model is module


@pytest.mark.long
def test_a_plan_of_a_live_module_exports_from_its_directory(pipeline_directory, tmp_path):
    prompts = {"encoder_hidden_states": torch.randn(1, TEXT_TOKENS, TEXT_DIM)}
    plan = paro_trt.calibrate(
        reopened(pipeline_directory), prompts, latents=LATENT_SHAPE[1:], block_q=64, steps=4,
        captured_steps=1, output=tmp_path / "live.paro.safetensors",
    )  # fmt: skip
    assert plan.model == load_model(pipeline_directory).identity
    (report,) = paro_trt.export(
        pipeline_directory, plan, tmp_path / "live.onnx", dtype=torch.float32
    )
    assert len(report.layers) == len(plan.layers)


def test_two_transformers_need_a_directory(pipeline_directory):
    module = reopened(pipeline_directory)
    with pytest.raises(ModelError, match=r"one transformer.*fix: pass the directory"):
        open_model(SimpleNamespace(transformer=module, transformer_2=module))


@pytest.mark.parametrize("source", [None, 3, SimpleNamespace(unet=1)])
def test_what_is_no_model_is_refused(source):
    with pytest.raises(ArgumentError, match=r"model: expected a model, got a .* without"):
        open_model(source)


def test_a_module_of_no_family_is_refused():
    with pytest.raises(ModelError, match="known model class"):
        open_model(torch.nn.Linear(2, 2))


def test_another_dtype_than_a_live_models_is_refused(pipeline_directory):
    with pytest.raises(ArgumentError, match=r"dtype: .*float32.*fix: convert the model"):
        open_model(reopened(pipeline_directory), torch.float16)


def test_unknown_settings_are_named(pipeline_directory, tmp_path):
    with pytest.raises(ArgumentError, match=r"densty: .*fix: the fields are density"):
        paro_trt.calibrate(
            pipeline_directory, {}, latents=(2, 8, 8), densty=0.3, output=tmp_path / "x"
        )
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_body_is_refused(pipeline_directory, tmp_path):
    plan = small_plan(model=load_model(pipeline_directory).identity)
    with pytest.raises(ArgumentError, match="body: expected one of sparse, dense, none"):
        paro_trt.export(pipeline_directory, plan, tmp_path / "x.onnx", body="sprase")
    assert list(tmp_path.iterdir()) == []


def test_the_released_type_is_the_family_s(pipeline_directory, tmp_path):
    assert released_dtype(pipeline_directory) is torch.bfloat16
    (tmp_path / "config.json").write_text('{"_class_name": "UNetMotionModel"}')
    with pytest.raises(ModelError, match="UNetMotionModel"):
        released_dtype(tmp_path)
