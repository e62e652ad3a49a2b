"""Pipelines of two transformers: each is found, and calibrated on its part of the schedule."""

import json

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from paro_trt.calibration import CalibrationSettings
from paro_trt.cli.app import app
from paro_trt.errors import ArgumentError, ModelError
from paro_trt.models.apply import check_plan_fits
from paro_trt.models.experts import (
    Expert,
    ExpertRole,
    described_identity,
    is_of_model,
    joint_velocity,
)
from paro_trt.models.load import load_model, load_partner
from paro_trt.plan.document import model_identity, model_identity_of_all_keys
from paro_trt.verification.schedule import schedule_points
from tests.support.calibrations import Schedule
from tests.support.calibrations import calibrate_embeddings as calibrate
from tests.support.tiny import variants_of

TINY, IMAGE_TO_VIDEO = variants_of("wan")[:2]
SETTINGS = CalibrationSettings(
    captured_steps=1, block_q=64, candidate_orders=("fhw",), time_attention=False
)


SCHEDULE = Schedule(steps=8)
EXPERTS = ("transformer", "transformer_2")


def save_pipeline(directory, tiny):
    for seed, name in enumerate(EXPERTS):
        tiny.build(seed).save_pretrained(directory / name)
    (directory / "model_index.json").write_text(json.dumps({"boundary_ratio": 0.875}))


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    directory = tmp_path_factory.mktemp("experts")
    save_pipeline(directory, TINY)
    return directory


def test_experts_are_found_and_told_apart(pipeline):
    high, low = (load_model(pipeline / name) for name in EXPERTS)
    assert (high.expert.role, low.expert.role) == (ExpertRole.HIGH_NOISE, ExpertRole.LOW_NOISE)
    assert high.expert.boundary == 875.0
    assert high.identity != low.identity
    assert load_partner(high).identity == low.identity
    assert load_partner(low).identity == high.identity


def test_a_lone_transformer_is_no_expert(tmp_path):
    TINY.build().save_pretrained(tmp_path / "transformer")
    loaded = load_model(tmp_path / "transformer")
    assert loaded.expert is None
    assert load_partner(loaded) is None


@pytest.mark.parametrize("ratio", [-0.1, 2.5, "0.9", True])
def test_a_boundary_that_is_none_is_refused(tmp_path, ratio):
    TINY.build().save_pretrained(tmp_path / "transformer")
    (tmp_path / "model_index.json").write_text(json.dumps({"boundary_ratio": ratio}))
    with pytest.raises(ModelError, match="boundary_ratio"):
        load_model(tmp_path / "transformer")


@pytest.mark.parametrize(("name", "ratio"), [("transformer_2", 1.0), ("transformer", 0.0)])
def test_one_of_two_serves_everything_at_the_ends_of_the_schedule(tmp_path, name, ratio):
    """As diffusers saves such a pipeline: nothing for the part that never serves."""
    (other,) = set(EXPERTS) - {name}
    TINY.build().save_pretrained(tmp_path / name)
    entries = {name: ["diffusers", TINY.class_name], other: [None, None]}
    index = tmp_path / "model_index.json"
    index.write_text(json.dumps({"boundary_ratio": ratio, **entries}))
    loaded = load_model(tmp_path / name)
    assert loaded.expert is None
    assert load_partner(loaded) is None
    index.write_text(json.dumps({"boundary_ratio": 0.9, **entries}))
    with pytest.raises(ModelError, match=f"boundary_ratio: expected {ratio:g} .*{name} alone"):
        load_model(tmp_path / name)


def test_an_expert_that_never_serves_says_so(tmp_path):
    save_pipeline(tmp_path, TINY)
    (tmp_path / "model_index.json").write_text(json.dumps({"boundary_ratio": 0.0}))
    low = load_model(tmp_path / "transformer_2")
    with pytest.raises(ArgumentError, match="calibrate the other transformer"):
        calibrate(low, TINY.prompts(1), TINY.latent_size, SETTINGS, tmp_path / "p",
                  partner=load_partner(low))  # fmt: skip


def test_each_timestep_goes_to_its_expert():
    expert = Expert(ExpertRole.LOW_NOISE, 900.0)
    velocity = joint_velocity(lambda *_: "low", expert, lambda *_: "high")
    assert velocity(None, torch.tensor([899.0, 3.0]), {}) == "low"
    assert velocity(None, torch.tensor([900.0]), {}) == "high"
    with pytest.raises(ModelError, match="timesteps of a batch"):
        velocity(None, torch.tensor([950.0, 100.0]), {})


def test_identities_with_all_arguments_are_still_of_their_model(pipeline):
    """As plans of before 2026-11-30 record them."""
    high, low = (load_model(pipeline / name) for name in EXPERTS)
    name = high.identity.class_name
    recorded = model_identity_of_all_keys(name, high.config, "transformer")
    assert recorded != high.identity
    assert is_of_model(recorded, high.identity, high.config)
    assert not is_of_model(recorded, low.identity, low.config)
    assert "the expert transformer_2" in described_identity(low.identity, low.config)
    alone = model_identity(name, high.config)
    assert is_of_model(model_identity_of_all_keys(name, high.config), alone, high.config)
    assert not is_of_model(recorded, alone, high.config)


def test_verification_stays_where_the_expert_serves():
    points = {role: schedule_points((), Expert(role, 900.0)) for role in ExpertRole}
    assert points[ExpertRole.HIGH_NOISE] == (975.0, 925.0)
    assert points[ExpertRole.LOW_NOISE] == (675.0, 225.0)
    low = Expert(ExpertRole.LOW_NOISE, 900.0)
    assert all(low.serves(point) for point in schedule_points((600.0, 200.0), low))


def test_a_plan_for_each_expert(pipeline, tmp_path):
    plans = {}
    for name in EXPERTS:
        loaded = load_model(pipeline / name)
        plans[name] = calibrate(
            loaded, TINY.prompts(2), TINY.latent_size, SETTINGS, tmp_path / name,
            partner=load_partner(loaded), schedule=SCHEDULE,
        )  # fmt: skip
    (high, low) = plans.values()
    assert high.bin_boundaries[0] > 875.0 > low.bin_boundaries[0]
    assert len(high.calibration.captured_steps) == len(low.calibration.captured_steps)
    assert max(high.calibration.captured_steps) < min(low.calibration.captured_steps)
    assert any(
        "expert transformer_2 serves timesteps below 875" in n for n in low.calibration.notes
    )
    loaded = load_model(pipeline / "transformer")
    check_plan_fits(loaded.identity, loaded.config, loaded.family, high)
    with pytest.raises(ModelError, match=r"got .*the expert transformer_2"):
        check_plan_fits(loaded.identity, loaded.config, loaded.family, low)


def test_an_expert_with_too_few_steps_or_no_partner_is_refused(pipeline, tmp_path):
    loaded = load_model(pipeline / "transformer")
    arguments = (TINY.prompts(1), TINY.latent_size)
    with pytest.raises(ArgumentError, match="that the expert serves"):
        calibrate(
            loaded, *arguments, SETTINGS, tmp_path / "p",
            partner=load_partner(loaded), schedule=Schedule(steps=2),
        )  # fmt: skip
    with pytest.raises(ArgumentError, match="partner"):
        calibrate(loaded, *arguments, SETTINGS, tmp_path / "p")


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.mark.long
def test_from_calibration_to_verified_files_of_both_experts(tmp_path):
    """Image to video as in Wan 2.2 A14B, by the command line alone."""
    save_pipeline(tmp_path, IMAGE_TO_VIDEO)
    made, prompts = IMAGE_TO_VIDEO.prompts(2), tmp_path / "prompts.safetensors"
    save_file(dict(made.tensors), prompts, {"prompts": json.dumps(made.texts)})
    size = ("--latent", ",".join(map(str, IMAGE_TO_VIDEO.latent_size)))
    quick = ("--block-q", 64, "--steps", 8, "--captured-steps", 1, "--density", 0.6)
    for name in EXPERTS:
        model, plan, file = tmp_path / name, tmp_path / f"{name}.plan", tmp_path / f"{name}.onnx"
        done = run("calibrate", model, "-o", plan, "--prompts", prompts, *size, *quick)
        assert done.exit_code == 0, done.stderr
        done = run("export", model, "--plan", plan, "-o", file, "--dtype", "float32")
        assert done.exit_code == 0, done.stderr
        given = ("--model", model, "--plan", plan, "--prompts", prompts)
        done = run("verify", file, *given, "--steps", 2, "--samples", 1, "--json")
        assert done.exit_code == 0, done.stderr
        report = json.loads(done.stdout)
        assert report["ok"] is True
        visited = [time for check in report["velocities"] for time in check["timesteps"]]
        assert all((time > 875.0) is (name == "transformer") for time in visited)
        assert {b for check in report["velocities"] for b in check["bins"]} == {0, 1}

    other = tmp_path / "wrong.onnx"
    done = run("export", tmp_path / "transformer_2", "--plan", tmp_path / "transformer.plan",
               "-o", other)  # fmt: skip
    assert done.exit_code == 2
    assert "the expert transformer_2" in done.stderr
    assert not list(tmp_path.glob("wrong*"))
    done = run("verify", tmp_path / "transformer.onnx", "--model", tmp_path / "transformer_2")
    assert done.exit_code == 2
    assert "verify against the model that was exported" in done.stderr
