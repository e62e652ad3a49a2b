"""Verification of stubs for an exported model: exact ones pass, broken ones fail by name."""

import dataclasses
import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from paro_trt.errors import ArgumentError, ModelError
from paro_trt.families.wan import WanFamily
from paro_trt.models.apply import ParoTransformer
from paro_trt.models.load import LoadedModel
from paro_trt.models.prompts import Prompts
from paro_trt.onnx_file.info import ExportInfo
from paro_trt.onnx_file.tensors import TensorSpec
from paro_trt.op import api
from paro_trt.op.reference import paro_attention_reference
from paro_trt.plan import model_identity
from paro_trt.runtime.session import Session
from paro_trt.verification.compare import VerifySettings, verify_model
from paro_trt.verification.schedule import schedule_points
from tests.support.plans import small_plan
from tests.support.tiny_wan import LATENT_SHAPE, TEXT_DIM, TEXT_TOKENS, tiny_wan

QUICK = VerifySettings(steps=2, samples=1, min_cosine=0.9)


class EagerSession(Session):
    """What an exporter should make of a ParoTransformer; `spoil` changes its output."""

    def __init__(self, module, info, spoil=lambda sample, _inputs: sample):
        self.module, self._info, self.spoil = module, info, spoil
        self.runs = []

    @property
    def inputs(self):
        return (
            TensorSpec("hidden_states", "float32", ("B", *LATENT_SHAPE)),
            TensorSpec("timestep", "float32", ("B",)),
            TensorSpec("encoder_hidden_states", "float32", ("B", TEXT_TOKENS, TEXT_DIM)),
            TensorSpec("mask_bin", "int32", ("B",)),
        )

    @property
    def outputs(self):
        return (TensorSpec("sample", "float32", ("B", *LATENT_SHAPE)),)

    @property
    def info(self):
        return self._info

    def close(self):
        pass

    def _execute(self, inputs):
        self.runs.append(inputs)
        (sample,) = self.module(*(torch.from_numpy(inputs[spec.name]) for spec in self.inputs))
        return {"sample": self.spoil(sample.numpy().copy(), inputs)}


@pytest.fixture(scope="module")
def loaded():
    model = tiny_wan(seed=21)
    identity = model_identity("WanTransformer3DModel", model.config)
    return LoadedModel(model, WanFamily(), dict(model.config), Path("tiny"), identity)


@pytest.fixture(scope="module")
def plan(loaded):
    return small_plan(model=loaded.identity, density=0.6, bins=2, seed=4, identity_affine=True)


@pytest.fixture(scope="module")
def prompts():
    texts = ("a red circle", "a blue square")
    embeds = torch.randn(2, TEXT_TOKENS, TEXT_DIM) + 0.3
    negative = torch.randn(TEXT_TOKENS, TEXT_DIM)
    name = "encoder_hidden_states"
    return Prompts(texts, {name: embeds}, {name: negative})


def session_of(loaded, plan, **arguments):
    info = ExportInfo(loaded.identity, plan.grid, plan.content_hash(), plan.bin_boundaries)
    return EagerSession(ParoTransformer(loaded.model, loaded.family, plan), info, **arguments)


def test_faithful_export_passes(loaded, plan, prompts):
    session = session_of(loaded, plan)
    report = verify_model(session, loaded, plan, prompts, QUICK)
    assert report.ok, report.failures
    assert all(check.eager.max_abs == 0 for check in report.velocities)
    assert report.lowest_cosine == min(check.dense.cosine for check in report.velocities)
    assert 0.9 < report.lowest_cosine < 0.99999
    assert report.plan_hash == plan.content_hash()


def test_every_bin_is_covered_alone_and_mixed(loaded, plan, prompts):
    session = session_of(loaded, plan)
    report = verify_model(session, loaded, plan, prompts, QUICK)
    assert [check.bins for check in report.velocities] == [(0,), (0,), (1,), (1,), (0, 1), (0, 1)]
    mixed = [run["mask_bin"].tolist() for run in session.runs if len(run["mask_bin"]) == 2]
    assert mixed == [[0, 1], [0, 1]]


def test_another_implementation_stays_within_the_bound(loaded, plan, prompts, monkeypatch):
    """The op in float64 differs from the reference by rounding, and now and then by a code."""

    def exact(inputs, config):
        return paro_attention_reference(inputs, config, exact=True).to(inputs.query.dtype)

    class ExactSession(EagerSession):
        def _execute(self, inputs):
            with monkeypatch.context() as patch:
                patch.setattr(api, "paro_attention_reference", exact)
                return super()._execute(inputs)

    info = session_of(loaded, plan).info
    session = ExactSession(ParoTransformer(loaded.model, loaded.family, plan), info)
    report = verify_model(session, loaded, plan, prompts, QUICK)
    assert report.ok, report.failures
    assert 0 < max(check.eager.relative_l2 for check in report.velocities) < report.eager_bound
    assert report.eager_bound < 2e-3


def nan_in_late_bin(sample, inputs):
    sample[inputs["mask_bin"] == 1, 0, 0, 0, 0] = np.nan
    return sample


def test_nan_fails_by_name(loaded, plan, prompts):
    report = verify_model(
        session_of(loaded, plan, spoil=nan_in_late_bin), loaded, plan, prompts, QUICK
    )
    assert not report.ok
    late = [line for line in report.failures if line.startswith("velocity at timestep 375:")]
    assert late == ["velocity at timestep 375: 1 values of the exported model are NaN or infinite"]
    assert any("sample 'a red circle'" in line for line in report.failures)
    assert not any("timestep 875:" in line for line in report.failures)
    assert np.isnan(report.lowest_cosine)
    json.loads(report.to_json(), parse_constant=lambda name: pytest.fail(name))


def test_nan_of_the_dense_model_is_not_blamed_on_the_export(loaded, plan, prompts):
    broken = tiny_wan(seed=21)
    broken.blocks[1].ffn.net[2].bias[0] = float("nan")
    model = dataclasses.replace(loaded, model=broken)
    report = verify_model(session_of(loaded, plan), model, plan, prompts, QUICK)
    assert any("values of the dense model are NaN" in line for line in report.failures)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda sample, _: sample * 1.01,
        lambda sample, _: sample[::-1].copy(),
        lambda sample, inputs: sample + 0.02 * inputs["mask_bin"][:, None, None, None, None],
    ],
    ids=["scaled", "batch reversed", "wrong in one bin"],
)
def test_deviation_from_the_plan_fails(loaded, plan, prompts, spoil):
    settings = dataclasses.replace(QUICK, min_cosine=-1.0)
    report = verify_model(session_of(loaded, plan, spoil=spoil), loaded, plan, prompts, settings)
    assert any("that rounding explains" in line for line in report.failures)
    without = verify_model(session_of(loaded, plan, spoil=spoil), loaded, None, prompts, settings)
    assert without.ok
    assert without.eager_bound is None
    assert all(check.eager is None for check in without.velocities)


def test_swapped_bins_fail(loaded, prompts):
    plan = small_plan(model=loaded.identity, density=0.2, bins=3, seed=4)

    class SwappedSession(EagerSession):
        def _execute(self, inputs):
            return super()._execute(inputs | {"mask_bin": 2 - inputs["mask_bin"]})

    info = session_of(loaded, plan).info
    session = SwappedSession(ParoTransformer(loaded.model, loaded.family, plan), info)
    report = verify_model(
        session, loaded, plan, prompts, dataclasses.replace(QUICK, min_cosine=-1.0)
    )
    assert not report.ok


def test_low_cosine_fails(loaded, plan, prompts):
    report = verify_model(
        session_of(loaded, plan),
        loaded,
        plan,
        prompts,
        dataclasses.replace(QUICK, min_cosine=1.0),
    )
    assert any("with the dense model is below 1" in line for line in report.failures)
    assert report.remedy.startswith("the file computes what the plan does")
    alone = dataclasses.replace(report, eager_bound=None)
    assert "--plan" in alone.remedy
    wrong = dataclasses.replace(report, eager_bound=-1.0)
    assert wrong.remedy is None  # the file is not its plan: another plan would not help
    assert dataclasses.replace(report, min_cosine=-1.0).remedy is None


def test_sampling_uses_guidance_and_every_prompt(loaded, plan, prompts):
    settings = VerifySettings(
        steps=2, samples=5, guidance_scale=2.0, min_cosine=0.9, data_range=4.0
    )
    session = session_of(loaded, plan)
    report = verify_model(session, loaded, plan, prompts, settings)
    assert [sample.prompt for sample in report.samples] == list(prompts.texts)
    sampling_runs = len(session.runs) - len(report.velocities)
    assert sampling_runs == 2 * 2 * 2  # prompts, steps, and two velocities a step
    for sample in report.samples:
        assert 5 < sample.psnr < 100
        assert 0 < sample.ssim < 1


def test_refuses_a_file_of_another_model_or_plan(loaded, plan, prompts):
    other = msgspec.structs.replace(loaded.identity, config_hash="0" * 64)
    session = session_of(loaded, plan)
    session._info = dataclasses.replace(session.info, model=other)
    with pytest.raises(ModelError, match=r"EagerSession: model.*000000000000"):
        verify_model(session, loaded, None, prompts, QUICK)
    session = session_of(loaded, plan)
    another_plan = small_plan(model=loaded.identity, seed=99)
    with pytest.raises(ModelError, match="EagerSession: plan"):
        verify_model(session, loaded, another_plan, prompts, QUICK)
    assert session.runs == []


def test_report_is_json(loaded, plan, prompts):
    report = verify_model(session_of(loaded, plan), loaded, plan, prompts, QUICK)
    content = json.loads(report.to_json())
    assert content["ok"] is True
    assert content["velocities"][0]["dense"]["cosine"] == report.velocities[0].dense.cosine
    assert content["samples"][0]["prompt"] == "a red circle"


def test_schedule_points_lie_inside_each_bin():
    assert schedule_points(()) == (750.0, 250.0)
    assert schedule_points((600.0, 200.0)) == (900.0, 700.0, 500.0, 300.0, 150.0, 50.0)


@pytest.mark.parametrize(
    "arguments", [{"samples": 0}, {"min_cosine": 1.5}, {"min_cosine": np.nan}, {"data_range": 0.0}]
)
def test_settings_out_of_range(arguments):
    with pytest.raises(ArgumentError, match=next(iter(arguments))):
        VerifySettings(**arguments)


def test_the_native_backend_may_compute_the_plan(loaded, plan, prompts):
    settings = dataclasses.replace(QUICK, impl="cpu")
    report = verify_model(session_of(loaded, plan), loaded, plan, prompts, settings)
    assert report.ok, report.failures
    with pytest.raises(ArgumentError, match="impl"):
        dataclasses.replace(settings, impl="fast")
