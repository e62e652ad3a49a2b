"""EngineTransformer in diffusers' own pipelines, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
from contextlib import ExitStack

import pytest
import torch

from paro_trt.errors import ArgumentError, ModelError
from paro_trt.models.apply import ParoTransformer
from paro_trt.models.experts import Expert, ExpertRole
from paro_trt.models.in_place import apply, remove
from paro_trt.models.live import open_model
from paro_trt.models.load import load_model
from paro_trt.onnx_export import export_onnx
from paro_trt.plan import mask_bins
from paro_trt.runtime.onnxruntime_session import OrtSession
from paro_trt.runtime.session import Session
from paro_trt.runtime.transformer import EngineTransformer
from tests.support.pipelines import PIPELINES
from tests.support.pipelines.qwen_image import EDIT
from tests.support.plans import small_plan
from tests.support.tiny_wan import tiny_wan, tiny_wan_inputs


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A model directory, its plan of two bins and the exported file."""
    directory = tmp_path_factory.mktemp("wan")
    tiny_wan(seed=3).save_pretrained(directory / "model")
    loaded = load_model(directory / "model")
    plan = small_plan(model=loaded.identity, qk_bits=16, pv_bits=16, density=0.3)
    export_onnx(loaded, plan, directory / "tiny.onnx")
    return loaded, plan, directory / "tiny.onnx"


@pytest.fixture
def stub(exported):
    loaded, _, path = exported
    with OrtSession(path, threads=1) as session:
        yield EngineTransformer(session, loaded.config)


def test_same_call_same_result_with_the_bin_of_the_timestep(stub, exported, fresh_seed):
    loaded, plan, _ = exported
    latents, timestep, conditioning = tiny_wan_inputs(2, fresh_seed)
    planned = ParoTransformer(loaded.model, loaded.family, plan)
    bins = torch.from_numpy(mask_bins(timestep.numpy(), plan.bin_boundaries))
    assert bins.tolist() == [0, 1]
    expected = planned(latents, timestep, *conditioning.values(), bins)[0]
    actual = stub(latents, timestep, **conditioning, return_dict=False)[0]
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=2e-4)
    other = stub(latents, timestep.flip(0), **conditioning).sample
    assert not torch.allclose(other, expected, atol=1e-3)


IN_THE_GATE = ("wan",)


@pytest.mark.parametrize(
    "tiny",
    [
        pytest.param(tiny, id=tiny.name, marks=[pytest.mark.long] * (tiny.name not in IN_THE_GATE))
        for tiny in (*PIPELINES, EDIT)
        if tiny.tiny.available
    ],
)
def test_in_the_family_s_own_pipeline(tiny, tmp_path):
    """From a sentence to latents: as with the plan applied to the model in PyTorch."""
    pipeline = tiny.build(seed=3)
    experts = {"transformer": None}
    if getattr(pipeline, "transformer_2", None) is not None:
        experts = {role.value: Expert(role, 875.0) for role in ExpertRole}
    engines = {}
    with ExitStack() as stack:
        for name, expert in experts.items():
            loaded = open_model(getattr(pipeline, name))
            if expert is not None:
                identity = expert.identity(tiny.tiny.class_name, loaded.config)
                loaded = dataclasses.replace(loaded, identity=identity)
            bits = {"qk_bits": 16, "pv_bits": 16, "bins": 2}
            plan = tiny.tiny.plan(density=0.3, seed=len(engines), **bits)
            plan = dataclasses.replace(plan, model=loaded.identity)
            export_onnx(loaded, plan, tmp_path / f"{name}.onnx")
            session = stack.enter_context(OrtSession(tmp_path / f"{name}.onnx", threads=1))
            engines[name] = EngineTransformer(session, loaded.config)
            apply(pipeline, plan)
        expected = tiny.run(pipeline)
        remove(pipeline)
        dense = tiny.run(pipeline)
        pipeline.register_modules(**engines)
        actual = tiny.run(pipeline)
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-3)
    # What the plan changes is far above rounding, and the engines change the same.
    change, error = (dense - expected).norm(), (actual - expected).norm()
    assert change > 1e-3 * expected.norm()
    assert error < 0.02 * change


def test_what_was_not_exported_is_refused(stub, fresh_seed):
    latents, timestep, conditioning = tiny_wan_inputs(2, fresh_seed)
    with pytest.raises(ArgumentError, match="encoder_hidden_states_image"):
        stub(latents, timestep, **conditioning, encoder_hidden_states_image=latents)
    with pytest.raises(ArgumentError, match="attention_kwargs"):
        stub(latents, timestep, **conditioning, attention_kwargs={"scale": 1.0})
    tokens = timestep[:, None].repeat(1, 128)
    tokens[:, 0] = 0
    with pytest.raises(ArgumentError, match="timestep: expected one for each sample"):
        stub(latents, tokens, **conditioning)
    with pytest.raises(ModelError, match=r"latents of Grid.*one resolution"):
        stub(latents[:, :, :1], timestep, **conditioning)
    with pytest.raises(ArgumentError, match="hidden_states"):
        stub(latents[:, :3], timestep, **conditioning)


def test_another_models_configuration(exported):
    loaded, _, path = exported
    with OrtSession(path, threads=1) as session:
        with pytest.raises(ModelError, match="pass the configuration of the model"):
            EngineTransformer(session, {**loaded.config, "eps": 2e-6})
        config = json.loads((loaded.path / "config.json").read_text())
        assert EngineTransformer(session, config).dtype is torch.float32
        assert EngineTransformer(session, config).config.in_channels == 4
        assert EngineTransformer(session, config).config["in_channels"] == 4


def test_an_expert_s_file_takes_the_plain_configuration(exported):
    """Experts of one configuration differ by their role, which config.json does not say."""
    loaded, _, path = exported
    identity = Expert(ExpertRole.LOW_NOISE, 875.0).identity(
        loaded.identity.class_name, loaded.config
    )
    with OrtSession(path, threads=1) as session:
        info = dataclasses.replace(session.info, model=identity)

        class OfAnExpert(Session):
            """The session as if its file were of an expert."""

            inputs, outputs = session.inputs, session.outputs

            @property
            def info(self):
                return info

            def close(self): ...

            def _execute(self, inputs): ...

        assert EngineTransformer(OfAnExpert(), loaded.config).dtype is torch.float32
        with pytest.raises(ModelError, match="config"):
            EngineTransformer(OfAnExpert(), {**loaded.config, "eps": 2e-6})
