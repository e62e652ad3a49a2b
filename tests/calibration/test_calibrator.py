"""Calibration end to end on a tiny random model."""

import dataclasses
from statistics import fmean

import pytest
import torch

from paro_trt.calibration import calibrator
from paro_trt.calibration.inputs import LayerInputs
from paro_trt.calibration.select_mask import SHARED_BUDGETS
from paro_trt.calibration.settings import CalibrationSettings
from paro_trt.errors import ArgumentError, ModelError
from paro_trt.families.base import AttentionSite
from paro_trt.families.wan import WanFamily
from paro_trt.models.load import LoadedModel
from paro_trt.models.prompts import Prompts
from paro_trt.plan import load_plan, model_identity, plan_mix
from tests.support.calibrations import FEW_STEPS
from tests.support.calibrations import calibrate_embeddings as calibrate
from tests.support.tiny_wan import tiny_wan

LATENT_SIZE = (4, 16, 16)
SETTINGS = CalibrationSettings(
    captured_steps=1,
    block_q=64,
    candidate_orders=("fhw", "whf", "tile2x4x4"),
    time_attention=False,
)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    model = tiny_wan(seed=3)
    family, config = WanFamily(), dict(model.config)
    identity = model_identity("WanTransformer3DModel", config)
    return LoadedModel(model, family, config, tmp_path_factory.mktemp("model"), identity)


@pytest.fixture(scope="module")
def prompts(loaded):
    generator = torch.Generator().manual_seed(1)
    embeds = torch.randn(2, 5, loaded.config["text_dim"], generator=generator) + 0.2
    return Prompts(("a red circle", "a blue square"), {"encoder_hidden_states": embeds})


@pytest.fixture(scope="module")
def straight(loaded, prompts, tmp_path_factory):
    """The plan of a run that nothing interrupted."""
    output = tmp_path_factory.mktemp("straight") / "plan"
    return calibrate(loaded, prompts, LATENT_SIZE, SETTINGS, output)


class InterruptionError(Exception):
    pass


class RecordingProgress:
    """Counts finished units of each stage; interrupts after `limit` of them."""

    def __init__(self, limit=None):
        self.limit, self.finished, self.stages, self.notes = limit, 0, {}, []

    def start(self, stage, total, done):
        self.stages[stage] = [total, done]

    def advance(self):
        self.finished += 1
        if self.finished == self.limit:
            raise InterruptionError

    def note(self, message):
        self.notes.append(message)


def test_the_plan_has_what_was_asked_for(loaded, prompts, tmp_path):
    output = tmp_path / "plan.paro.safetensors"
    progress = RecordingProgress()
    plan = calibrate(
        loaded, prompts, LATENT_SIZE, SETTINGS, output, heldout=prompts, progress=progress
    )
    assert load_plan(output).content_hash() == plan.content_hash()
    assert [path.name for path in tmp_path.iterdir()] == [output.name]
    assert plan.model == loaded.identity
    assert (plan.block_q, plan.block_k, plan.bins, plan.pool_dropped) == (64, 64, 2, True)
    assert [layer.name for layer in plan.layers] == [
        site.name for site in loaded.family.sites(loaded.config)
    ]
    assert set(plan.order_names) <= {"fhw", "whf", "tile2x4x4"}
    assert plan.calibration.prompts == prompts.texts
    assert plan.calibration.captured_steps == (1, 3)
    assert 0 < plan.calibration.measured["heldout_error"] < 1
    assert progress.stages == {
        "dense runs": [6, 0],
        "orders": [4, 0],
        "blocks": [4, 0],
        "errors": [2, 0],
        "held-out error": [5, 0],
    }


def test_same_seed_same_plan_and_another_seed_another(loaded, prompts, straight, tmp_path):
    again = calibrate(loaded, prompts, LATENT_SIZE, SETTINGS, tmp_path / "again")
    assert again.content_hash() == straight.content_hash()
    settings = dataclasses.replace(SETTINGS, seed=6)
    other = calibrate(loaded, prompts, LATENT_SIZE, settings, tmp_path / "other")
    assert other.layers[0].heads != straight.layers[0].heads


@pytest.mark.parametrize(("limit", "kept"), [(2, 0), (4, 3), (8, 8), (11, 11), (15, 15)])
def test_an_interrupted_run_resumes_to_the_same_plan(
    loaded, prompts, straight, tmp_path, limit, kept
):
    output = tmp_path / "resumed"
    with pytest.raises(InterruptionError):
        calibrate(loaded, prompts, LATENT_SIZE, SETTINGS, output, progress=RecordingProgress(limit))
    assert not output.exists()
    assert (tmp_path / "resumed.work").is_dir()
    rest = RecordingProgress()
    resumed = calibrate(loaded, prompts, LATENT_SIZE, SETTINGS, output, progress=rest)
    assert resumed.content_hash() == straight.content_hash()
    assert rest.finished == 6 + 4 + 4 + 2 - kept
    assert "resuming" in rest.notes[0]
    assert not (tmp_path / "resumed.work").exists()


def test_a_layer_stored_before_the_interruption_is_not_counted_twice(
    loaded, prompts, straight, tmp_path, monkeypatch
):
    original, calls = calibrator.mask_contribution, []

    def interrupted(inputs, *arguments):
        calls.append(inputs.site.name)
        if len(calls) == 2:
            raise InterruptionError
        return original(inputs, *arguments)

    monkeypatch.setattr(calibrator, "mask_contribution", interrupted)
    with pytest.raises(InterruptionError):
        calibrate(loaded, prompts, LATENT_SIZE, SETTINGS, tmp_path / "resumed")
    assert calls == ["blocks.0.attn1", "blocks.1.attn1"]
    monkeypatch.undo()
    resumed = calibrate(loaded, prompts, LATENT_SIZE, SETTINGS, tmp_path / "resumed")
    assert resumed.content_hash() == straight.content_hash()


def test_work_of_other_settings_is_refused_and_kept(loaded, prompts, tmp_path):
    output = tmp_path / "plan"
    with pytest.raises(InterruptionError):
        calibrate(loaded, prompts, LATENT_SIZE, SETTINGS, output, progress=RecordingProgress(3))
    other = dataclasses.replace(SETTINGS, density=0.5)
    with pytest.raises(ArgumentError, match="settings differ"):
        calibrate(loaded, prompts, LATENT_SIZE, other, output)
    calibrate(loaded, prompts, LATENT_SIZE, SETTINGS, output)


@pytest.mark.parametrize("allocation", SHARED_BUDGETS)
def test_density_holds_for_every_allocation(loaded, prompts, tmp_path, allocation):
    settings = dataclasses.replace(
        SETTINGS, density=0.5, allocation=allocation, block_k=64, qk_bits=16, pv_bits=16
    )
    plan = calibrate(loaded, prompts, LATENT_SIZE, settings, tmp_path / "plan")
    assert plan.density() <= 0.5 + 1e-9
    assert plan.density() >= 0.5 - 1 / (plan.query_blocks * plan.key_blocks)


AT_A_COST = dataclasses.replace(SETTINGS, density=None, cost=0.5)


@pytest.mark.parametrize("allocation", SHARED_BUDGETS)
def test_cost_is_met_by_every_allocation(loaded, prompts, tmp_path, allocation):
    settings = dataclasses.replace(AT_A_COST, allocation=allocation, qk_bits=16, pv_bits=16)
    output = tmp_path / "plan"
    plan = calibrate(loaded, prompts, LATENT_SIZE, settings, output)
    mix = plan_mix(plan)
    assert mix.cost <= 0.5 + 1e-9
    # Of each budget, and of each head and bin that chooses blocks itself, less than one block is
    # left.
    assert mix.cost > 0.5 - 2 / plan.query_blocks
    assert plan.version == 2
    assert mix.fine > 0
    assert load_plan(output).content_hash() == plan.content_hash()
    measured = plan.calibration.measured
    assert measured["cost"] == pytest.approx(mix.cost)
    assert measured["cost_asked_for"] == 0.5


def test_a_cost_tries_heads_on_captures_of_their_own(loaded, prompts, tmp_path):
    for of, number in ((prompts, 1), (prompts.only([0]), 2)):
        progress = RecordingProgress()
        settings = dataclasses.replace(AT_A_COST, captured_steps=number)
        calibrate(loaded, of, LATENT_SIZE, settings, tmp_path / "plan", progress=progress)
        # The last of two prompts, or the last captured step of each of two bins.
        assert progress.stages["blocks"] == progress.stages["trials"] == [2, 0]


def test_a_cost_without_captures_to_try_on_says_so(loaded, prompts, tmp_path):
    progress = RecordingProgress()
    plan = calibrate(
        loaded, prompts.only([0]), LATENT_SIZE, AT_A_COST, tmp_path / "plan", progress=progress
    )
    assert "trials" not in progress.stages
    assert all(layer.corrected_heads is layer.dynamic_blocks is None for layer in plan.layers)
    assert any("nothing was left to try" in note for note in plan.calibration.notes)


def test_an_interrupted_run_at_a_cost_resumes_to_the_same_plan(loaded, prompts, tmp_path):
    straight = calibrate(loaded, prompts, LATENT_SIZE, AT_A_COST, tmp_path / "straight")
    # In the trials: after six steps, four captures for orders, two for blocks and one of two.
    with pytest.raises(InterruptionError):
        calibrate(
            loaded, prompts, LATENT_SIZE, AT_A_COST, tmp_path / "plan",
            progress=RecordingProgress(13),
        )  # fmt: skip
    resumed = calibrate(loaded, prompts, LATENT_SIZE, AT_A_COST, tmp_path / "plan")
    assert resumed.content_hash() == straight.content_hash()


def test_forced_blocks_above_the_cost_are_owned_up_to(loaded, prompts, tmp_path):
    settings = dataclasses.replace(AT_A_COST, cost=0.1)
    plan = calibrate(loaded, prompts, LATENT_SIZE, settings, tmp_path / "plan")
    assert any("cost 0.262 instead of 0.100" in note for note in plan.calibration.notes)
    assert plan_mix(plan).exact == 0.25


def test_predicted_error_at_a_cost_is_that_of_all_it_uses(loaded, prompts, tmp_path):
    one = prompts.only([0])
    settings = dataclasses.replace(AT_A_COST, captured_steps=2)
    plan = calibrate(loaded, one, LATENT_SIZE, settings, tmp_path / "plan", heldout=one)
    predicted = [h.predicted_error for layer in plan.layers for h in layer.heads]
    measured = plan.calibration.measured["heldout_error"]
    assert min(map(min, predicted)) * 0.9 <= measured <= max(map(max, predicted)) * 1.1


def test_mass_target_is_held(loaded, prompts, tmp_path):
    settings = dataclasses.replace(SETTINGS, density=None, mass=0.8)
    plan = calibrate(loaded, prompts, LATENT_SIZE, settings, tmp_path / "plan")
    masses = [mass for layer in plan.layers for head in layer.heads for mass in head.mass]
    assert min(masses) >= 0.8 - 1e-6
    assert plan.calibration.density == pytest.approx(plan.density())


def test_forced_blocks_above_the_density_are_owned_up_to(loaded, prompts, tmp_path):
    settings = dataclasses.replace(SETTINGS, density=0.01)
    plan = calibrate(loaded, prompts, LATENT_SIZE, settings, tmp_path / "plan")
    assert any("instead of 0.010" in note for note in plan.calibration.notes)


def test_density_one_at_16_bits_is_dense_attention(loaded, prompts, tmp_path):
    settings = dataclasses.replace(SETTINGS, density=1.0, qk_bits=16, pv_bits=16)
    plan = calibrate(loaded, prompts, LATENT_SIZE, settings, tmp_path / "plan", heldout=prompts)
    assert plan.density() == 1.0
    assert plan.calibration.measured["heldout_error"] < 1e-5
    for layer in plan.layers:
        assert (layer.channel_affine[[0, 2]] == 0).all()
        assert (layer.channel_affine[[1, 3]] == 1).all()


def test_4_bit_query_x_key_is_smoothed_unless_told_otherwise(loaded, prompts, tmp_path):
    one = prompts.only([0])
    errors = {}
    for smoothing in (True, False):
        settings = dataclasses.replace(
            SETTINGS, density=1.0, qk_bits=4, pv_bits=16, int4_max_error=1.0, smoothing=smoothing
        )
        path = tmp_path / str(smoothing)
        calibrate(loaded, one, LATENT_SIZE, settings, path, heldout=one)
        plan = load_plan(path)
        errors[smoothing] = plan.calibration.measured["heldout_error"]
        assert plan.version == (2 if smoothing else 1)
        for layer in plan.layers:
            assert layer.qk_bits == 4
            assert (layer.rotation is not None) == smoothing
            assert ("heads rotated" in layer.bits_reason) == smoothing
            predicted = fmean(x for head in layer.heads for x in head.predicted_error)
            measured = plan.calibration.measured[f"heldout_error.{layer.name}"]
            assert predicted == pytest.approx(measured, rel=0.5)
    assert errors[True] < 0.95 * errors[False]


def test_predicted_error_is_what_the_same_prompt_measures(loaded, prompts, tmp_path):
    one = prompts.only([0])
    settings = dataclasses.replace(SETTINGS, density=0.6)
    plan = calibrate(loaded, one, LATENT_SIZE, settings, tmp_path / "plan", heldout=one)
    predicted = [h.predicted_error for layer in plan.layers for h in layer.heads]
    measured = plan.calibration.measured["heldout_error"]
    assert min(map(min, predicted)) * 0.9 <= measured <= max(map(max, predicted)) * 1.1


def test_timing_gives_a_forecast(loaded, prompts, tmp_path):
    settings = dataclasses.replace(SETTINGS, time_attention=True)
    plan = calibrate(loaded, prompts, LATENT_SIZE, settings, tmp_path / "plan")
    measured = plan.calibration.measured
    assert 0 < measured["attention_share"] < 1
    assert 1 < measured["model_speedup"] < measured["attention_speedup"]
    assert any("attention takes" in note for note in plan.calibration.notes)


def test_a_model_that_gives_nan_is_refused(loaded, prompts, tmp_path):
    broken = tiny_wan(seed=3)
    with torch.no_grad():
        next(iter(broken.blocks[1].attn1.to_k.parameters())).fill_(float("nan"))
    with pytest.raises(ModelError, match="latents of the dense run at step 1"):
        calibrate(
            dataclasses.replace(loaded, model=broken), prompts, LATENT_SIZE, SETTINGS,
            tmp_path / "plan",
        )  # fmt: skip


def test_attention_inputs_are_checked():
    site = AttentionSite("blocks.0.attn1", 2, 2, 4)
    query, key, value = (torch.ones(8, 2, 4) for _ in range(3))
    LayerInputs(site, query, key, value, 0.5).check(tokens=8)
    with pytest.raises(ModelError, match="expected 9 tokens"):
        LayerInputs(site, query, key, value, 0.5).check(tokens=9)
    key[3, 1, 2] = float("inf")
    with pytest.raises(ModelError, match="expected finite key"):
        LayerInputs(site, query, key, value, 0.5).check(tokens=8)


def test_prompts_of_another_encoder_are_refused(loaded, tmp_path):
    embeds = torch.ones(1, 4, loaded.config["text_dim"] + 1)
    wrong = Prompts(("x",), {"encoder_hidden_states": embeds})
    with pytest.raises(ModelError, match="prompts: encoder_hidden_states"):
        calibrate(loaded, wrong, LATENT_SIZE, SETTINGS, tmp_path / "plan")
    assert not list(tmp_path.iterdir())


def test_guidance_without_a_negative_prompt_is_refused(loaded, prompts, tmp_path):
    schedule = dataclasses.replace(FEW_STEPS, guidance_scale=3.0)
    with pytest.raises(ArgumentError, match="guidance_scale"):
        calibrate(loaded, prompts, LATENT_SIZE, SETTINGS, tmp_path / "plan", schedule=schedule)


def test_guidance_changes_the_run(loaded, prompts, straight, tmp_path):
    negative = {"encoder_hidden_states": torch.zeros(5, loaded.config["text_dim"])}
    guided = dataclasses.replace(prompts, negative=negative)
    schedule = dataclasses.replace(FEW_STEPS, guidance_scale=5.0)
    strong = calibrate(
        loaded, guided, LATENT_SIZE, SETTINGS, tmp_path / "strong", schedule=schedule
    )
    assert straight.layers[0].heads != strong.layers[0].heads
