"""Attention taken by someone else: calibration computes by torch, or says who it is."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.attention_dispatch import AttentionBackendName, attention_backend

from paro_trt.calibration import CalibrationSettings
from paro_trt.errors import ModelError
from paro_trt.models.attention_backend import native_attention
from paro_trt.models.intercept import intercept_attention
from tests.support.calibrations import calibrate_embeddings
from tests.support.tiny import variants_of

TINY = variants_of("wan")[0]
SETTINGS = CalibrationSettings(
    captured_steps=1, block_q=64, bins=1, candidate_orders=("fhw",), time_attention=False
)


@pytest.fixture
def foreign(monkeypatch):
    """A backend that computes nothing, chosen for every model of diffusers."""
    from diffusers.models import attention_dispatch

    def refuse(*_args, **_options):
        raise AssertionError("the foreign backend was called")

    backends = attention_dispatch._AttentionBackendRegistry._backends
    monkeypatch.setitem(backends, AttentionBackendName._NATIVE_MATH, refuse)
    with attention_backend(AttentionBackendName._NATIVE_MATH):
        yield AttentionBackendName._NATIVE_MATH


def run(model):
    latents, timestep, conditioning = TINY.inputs(1)
    return model(latents, timestep, conditioning["encoder_hidden_states"], return_dict=False)[0]


def chosen_backend():
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry

    return _AttentionBackendRegistry.get_active_backend()[0]


def test_a_backend_for_all_models_is_set_aside_and_restored(foreign):
    model = TINY.build()
    with native_attention(model):
        inside = run(model)
    assert chosen_backend() is foreign
    with pytest.raises(AssertionError, match="foreign"):
        run(model)
    with attention_backend(AttentionBackendName.NATIVE):
        torch.testing.assert_close(inside, run(model))


def test_a_backend_set_on_the_model_is_set_aside_and_restored(foreign):
    model = TINY.build()
    processor = model.blocks[0].attn1.processor
    model.set_attention_backend(foreign.value)
    with native_attention(model):
        run(model)
    assert processor._attention_backend is foreign


def test_calibration_computes_by_torch(foreign, tmp_path):
    plan = calibrate_embeddings(
        TINY.loaded(), TINY.prompts(1), TINY.latent_size, SETTINGS, tmp_path / "plan"
    )
    assert len(plan.layers) == 2
    assert chosen_backend() is foreign


def test_a_replaced_function_is_named(monkeypatch, tmp_path):
    def my_attention(*args, **options):
        return torch._C._nn.scaled_dot_product_attention(*args, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", my_attention)
    with pytest.raises(ModelError, match=r"my_attention, which replaced it.*fix: restore"):
        calibrate_embeddings(
            TINY.loaded(), TINY.prompts(1), TINY.latent_size, SETTINGS, tmp_path / "plan"
        )
    assert not list(tmp_path.iterdir())
    model, sites = TINY.build(), TINY.family.sites(TINY.full_config)
    with (
        pytest.raises(ModelError, match="my_attention"),
        intercept_attention(model, sites, lambda _site, query, *_: query),
    ):
        run(model)


def test_a_plan_that_meets_no_attention_names_the_variable(monkeypatch):
    """Outside of calibration the backend stays the user's."""
    monkeypatch.setenv("DIFFUSERS_ATTN_BACKEND", "flex")
    model, sites = TINY.build(), TINY.family.sites(TINY.full_config)
    for block in model.blocks:
        block.attn1.forward = lambda hidden_states, *_args, **_options: hidden_states
    with (
        pytest.raises(ModelError, match="unset DIFFUSERS_ATTN_BACKEND, which is 'flex'"),
        intercept_attention(model, sites, lambda _site, query, *_: query),
    ):
        run(model)


def test_an_unknown_backend_in_the_variable_is_named():
    code = (
        "from paro_trt.errors import ModelError\n"
        "from paro_trt.families.shared.diffusers_range import check_diffusers\n"
        "try:\n    check_diffusers()\nexcept ModelError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={"DIFFUSERS_ATTN_BACKEND": "rubbish", "PATH": "/usr/bin"},
    )  # fmt: skip
    assert "DIFFUSERS_ATTN_BACKEND" in done.stdout
    assert "unset" in done.stdout
