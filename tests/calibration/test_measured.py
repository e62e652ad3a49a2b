"""Allocation by measured effect on the prediction, end to end on tiny models."""

from __future__ import annotations

import dataclasses
import multiprocessing
import re
import signal
import time

import numpy as np
import pytest
import torch

from paro_trt.calibration import Allocation, CalibrationSettings, Target
from paro_trt.calibration.cost import count_forwards
from paro_trt.calibration.effects import prediction
from paro_trt.calibration.embeddings_source import EmbeddingsSource
from paro_trt.calibration.run import CalibrationRun
from paro_trt.errors import ArgumentError
from paro_trt.families.wan import WanFamily
from paro_trt.models.load import LoadedModel
from paro_trt.models.prompts import Prompts
from paro_trt.models.schedules import Schedule
from paro_trt.plan import model_identity, plan_mix
from tests.support.calibrations import FEW_STEPS, calibrate_embeddings
from tests.support.tiny_wan import tiny_wan

LATENT_SIZE = (4, 16, 16)
PATIENCE_SECONDS = 120
SETTINGS = CalibrationSettings(
    density=None,
    cost=0.45,
    block_q=64,
    captured_steps=1,
    candidate_orders=("fhw", "whf"),
    time_attention=False,
    allocation=Allocation.MEASURED,
    cost_levels=(0.3, 0.5, 0.8),
)


def loaded_wan(path, quiet_layer=None):
    """A model; the attention of `quiet_layer` hardly reaches the prediction."""
    model = tiny_wan(seed=3)
    if quiet_layer is not None:
        model.blocks[quiet_layer].attn1.to_out[0].weight.mul_(1e-3)
    identity = model_identity("WanTransformer3DModel", dict(model.config))
    return LoadedModel(model, WanFamily(), dict(model.config), path, identity)


def two_prompts(loaded):
    generator = torch.Generator().manual_seed(1)
    embeds = torch.randn(2, 5, loaded.config["text_dim"], generator=generator) + 0.2
    return Prompts(("a red circle", "a blue square"), {"encoder_hidden_states": embeds})


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return loaded_wan(tmp_path_factory.mktemp("model"), quiet_layer=0)


@pytest.fixture(scope="module")
def prompts(loaded):
    return two_prompts(loaded)


class Progress:
    """Keeps the stages and the notes."""

    def __init__(self):
        self.stages, self.notes = {}, []

    def start(self, stage, total, done):
        self.stages[stage] = (total, done)

    def advance(self):
        pass

    def note(self, message):
        self.notes.append(message)


@pytest.fixture(scope="module")
def made(loaded, prompts, tmp_path_factory):
    """The plan, the progress, and the forwards of the model that it took."""
    forwards = []
    hook = loaded.model.register_forward_pre_hook(lambda *_: forwards.append(1))
    progress = Progress()
    output = tmp_path_factory.mktemp("straight") / "plan"
    plan = calibrate_embeddings(loaded, prompts, LATENT_SIZE, SETTINGS, output, progress=progress)
    hook.remove()
    return plan, progress, len(forwards)


def costs(plan):
    return [plan_mix(plan, [layer]).cost for layer in plan.layers]


def test_the_layer_that_matters_gets_the_keys(made, loaded, prompts, tmp_path):
    plan = made[0]
    quiet, loud = costs(plan)
    assert quiet < 0.3
    assert loud > 0.5
    effect = plan.calibration.measured
    assert effect["effect.blocks.0.attn1"] < 0.05 * effect["effect.blocks.1.attn1"]
    by_layer = dataclasses.replace(SETTINGS, allocation=Allocation.LAYER, cost_levels=None)
    other = calibrate_embeddings(loaded, prompts, LATENT_SIZE, by_layer, tmp_path / "layer")
    assert costs(other)[0] == pytest.approx(costs(other)[1], abs=0.02)


def test_the_time_is_kept_counted_and_told(made):
    plan = made[0]
    measured = plan.calibration.measured
    # 8 bits take half the time of 16, where no GPU is named.
    assert measured["counted_time"] <= 0.5 * SETTINGS.cost + 1e-9
    assert measured["counted_time"] == pytest.approx(0.5 * plan_mix(plan).cost, rel=0.02)
    assert measured["counted_speedup"] == pytest.approx(1 / measured["counted_time"])
    shares = [measured[f"time_share.{layer.name}"] for layer in plan.layers]
    assert sum(shares) == pytest.approx(1.0)
    assert shares == pytest.approx([cost / sum(costs(plan)) for cost in costs(plan)], rel=0.05)
    for layer in plan.layers:
        assert re.search(r"QK 8, PV 8 and blocks at .* / .*: chosen by measured", layer.bits_reason)


def test_effects_of_parts_add_up_to_that_of_the_plan(made):
    measured = made[0].calibration.measured
    parts = [measured[f"effect.{layer.name}"] ** 2 for layer in made[0].layers]
    assert measured["expected_prediction_error"] == pytest.approx(sum(parts) ** 0.5)
    assert measured["prediction_error"] == pytest.approx(sum(parts) ** 0.5, rel=0.25)


def test_forwards_are_counted_before_the_first(made, loaded, prompts):
    _, progress, forwards = made
    run = CalibrationRun(EmbeddingsSource(loaded, prompts, LATENT_SIZE, FEW_STEPS), SETTINGS)
    assert count_forwards(run, None).total == forwards
    # Two calls; for two layers of two heads four levels for each and two widths, and three of the
    # whole model.
    assert count_forwards(run, None).effects == 2 * (2 * (2 * 4 + 2) + 3)
    assert "46 forwards to measure effects" in progress.notes[0]
    assert "4 levels of blocks for each of 2 groups of heads" in progress.notes[0]
    (estimate,) = [note for note in progress.notes if note.startswith("effects: ")]
    assert re.search(r"s a layer and call, about .* left", estimate)
    assert progress.stages["effects"] == (4, 0)


class Halting(Progress):
    """Waits once the effects of a layer are stored."""

    def advance(self):
        if "effects" in self.stages:
            time.sleep(PATIENCE_SECONDS)


def calibrate_there(output):
    """What another process runs: the calibration of `made`, from the same model and prompts."""
    loaded = loaded_wan(output.parent, quiet_layer=0)
    prompts = two_prompts(loaded)
    calibrate_embeddings(loaded, prompts, LATENT_SIZE, SETTINGS, output, progress=Halting())


def test_a_killed_measurement_resumes_to_the_same_plan(made, loaded, prompts, tmp_path):
    """kill -9 of a process once it has stored the effects of a layer."""
    plan = made[0]
    output, work = tmp_path / "plan", tmp_path / "plan.work"
    victim = multiprocessing.get_context("spawn").Process(target=calibrate_there, args=(output,))
    victim.start()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not list(work.glob("effects-*")) and victim.is_alive() and time.monotonic() < deadline:
        time.sleep(0.005)
    victim.kill()
    victim.join()
    assert victim.exitcode == -signal.SIGKILL
    assert not output.exists()

    forwards, again = [], Progress()
    hook = loaded.model.register_forward_pre_hook(lambda *_: forwards.append(1))
    resumed = calibrate_embeddings(loaded, prompts, LATENT_SIZE, SETTINGS, output, progress=again)
    hook.remove()
    assert again.stages["effects"] == (4, 1)
    # The dense prediction and ten options of a layer on one call, and of two on the other; trials,
    # errors, and two of the plan.
    assert len(forwards) == (1 + 10) + (1 + 2 * 10) + 2 + 2 + 2 * 2
    assert resumed.content_hash() == plan.content_hash()


def test_an_error_is_kept_in_the_least_time(made, loaded, prompts, tmp_path):
    wanted = made[0].calibration.measured["expected_prediction_error"]
    settings = dataclasses.replace(SETTINGS, cost=None, max_error=wanted * 1.001)
    plan = calibrate_embeddings(loaded, prompts, LATENT_SIZE, settings, tmp_path / "plan")
    measured = plan.calibration.measured
    assert measured["expected_prediction_error"] <= wanted * 1.001
    assert measured["counted_time"] <= made[0].calibration.measured["counted_time"] + 1e-9


def test_a_speedup_on_a_gpu_with_4_bits_uses_them(loaded, prompts, tmp_path):
    settings = dataclasses.replace(
        SETTINGS,
        cost=None,
        speedup=7.5,
        block_k=128,
        qk_bits=4,
        time_target=Target.SM_89,
        head_groups=1,
    )
    plan = calibrate_embeddings(loaded, prompts, LATENT_SIZE, settings, tmp_path / "plan")
    assert plan.calibration.measured["counted_speedup"] >= 7.5
    assert 4 in {layer.qk_bits for layer in plan.layers}
    assert {layer.pv_bits for layer in plan.layers} <= {8, 16}
    for layer in plan.layers:
        assert (layer.rotation is not None) == (layer.qk_bits == 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cost": None, "speedup": 20.0}, r"speedup: expected at most 7\.6.* got 20"),
        ({"cost": 0.1}, r"cost: expected at least 0\.26.* got 0\.1"),
        ({"cost": None, "density": 0.1}, r"density: expected at least 0\.25: .* got 0\.1"),
    ],
)
def test_budgets_out_of_reach_are_refused_before_anything_runs(
    loaded, prompts, tmp_path, changes, message
):
    settings = dataclasses.replace(SETTINGS, **changes)
    with pytest.raises(ArgumentError, match=message):
        calibrate_embeddings(loaded, prompts, LATENT_SIZE, settings, tmp_path / "plan")
    assert not list(tmp_path.iterdir())


def test_effects_are_those_of_guided_predictions(loaded, prompts, tmp_path):
    """Of both prompts, but not in the last recorded step: a run ends before its second call."""
    negative = {"encoder_hidden_states": torch.full((5, loaded.config["text_dim"]), 0.4)}
    guided = dataclasses.replace(prompts, negative=negative)
    schedule = dataclasses.replace(FEW_STEPS, guidance_scale=3.0)
    settings = dataclasses.replace(SETTINGS, head_groups=1, cost_levels=(0.6,), prompt_limit=1)
    run = CalibrationRun(EmbeddingsSource(loaded, guided, LATENT_SIZE, schedule), settings)
    first, last = run.recorded_steps()
    calls = run.source.record(0, 0, (first, last), lambda _step: None)
    assert calls[last].negative is None
    with_text, without = (
        loaded.model(**of)[0] for of in (calls[first].arguments, calls[first].negative)
    )
    wanted = without + 3.0 * (with_text - without)
    torch.testing.assert_close(prediction(run, calls[first], {}), wanted, rtol=1e-4, atol=1e-4)

    forwards = []
    hook = loaded.model.register_forward_pre_hook(lambda *_: forwards.append(1))
    plan = calibrate_embeddings(
        loaded, guided, LATENT_SIZE, settings, tmp_path / "plan", schedule=schedule
    )
    hook.remove()
    assert len(forwards) == count_forwards(run, None).total
    assert count_forwards(run, None).effects == (2 + 1) * (2 * (2 + 2) + 3)
    measured = plan.calibration.measured
    parts = measured["expected_prediction_error"]
    assert measured["prediction_error"] == pytest.approx(parts, rel=0.3)


@pytest.fixture(scope="module")
def longer(loaded, prompts):
    """Twelve steps, of which two are captured in each of two bins."""
    source = EmbeddingsSource(loaded, prompts, LATENT_SIZE, Schedule(steps=12))
    return CalibrationRun(source, dataclasses.replace(SETTINGS, captured_steps=2))


def with_calls(run, number):
    return CalibrationRun(run.source, dataclasses.replace(run.settings, effect_calls=number))


def test_steps_count_by_the_signal_that_they_leave(longer):
    sigmas = np.array([*longer.source.timesteps, 0.0]) / 1000
    steps = ((sigmas[:-1] - sigmas[1:]) / (1 - sigmas[1:])) ** 2
    assert longer.step_weights() == pytest.approx(steps / steps.sum())
    # Early steps decide most.
    assert longer.step_weights()[0] > 2 * longer.step_weights()[1]


def test_effects_are_measured_near_the_steps_that_decide(longer):
    """Of steps 1 and 4, and 7 and 10, are captured; the last prompt comes first."""
    assert [(of.prompt, of.step) for of in longer.effect_captures()] == [(1, 1), (1, 7)]
    twice = with_calls(longer, 2).effect_captures()
    assert [(of.prompt, of.step) for of in twice] == [(0, 1), (1, 1), (1, 7), (1, 10)]
    assert len(with_calls(longer, 9).effect_captures()) == 8


@pytest.mark.parametrize("calls", [1, 2, 3])
def test_a_call_counts_the_steps_that_it_stands_for(longer, calls):
    run = with_calls(longer, calls)
    weights, of_steps = run.effect_weights(), run.step_weights()
    assert sum(weights.values()) == pytest.approx(1.0)
    of_first = {of: weight for of, weight in weights.items() if of.mask_bin == 0}
    assert sum(of_first.values()) == pytest.approx(of_steps[:6].sum())
    if calls == 3:
        late = [weight for of, weight in of_first.items() if of.step == 4]
        assert late == pytest.approx([of_steps[3:6].sum()])
        early = [weight for of, weight in of_first.items() if of.step == 1]
        assert early == pytest.approx([of_steps[:3].sum() / 2] * 2)


def unlike_heads(path):
    """A model whose first head hardly reaches the prediction."""
    loaded = loaded_wan(path)
    for block in loaded.model.blocks:
        block.attn1.to_out[0].weight[:, :64].mul_(1e-3)
    return loaded


def test_the_heads_that_matter_get_the_keys(prompts, tmp_path):
    loaded = unlike_heads(tmp_path)
    settings = dataclasses.replace(SETTINGS, bins=1)
    plan = calibrate_embeddings(loaded, prompts, LATENT_SIZE, settings, tmp_path / "groups")
    for layer in plan.layers:
        (quiet,), (loud,) = (head.density for head in layer.heads)
        assert quiet < 0.3
        assert loud > 0.4
        assert re.search(r"at .* \+ .* \(heads [01] \+ [01]\)", layer.bits_reason)
    alone = dataclasses.replace(settings, head_groups=1)
    other = calibrate_embeddings(loaded, prompts, LATENT_SIZE, alone, tmp_path / "alone")
    assert "heads" not in other.layers[0].bits_reason
    figures = [of.calibration.measured["prediction_error"] for of in (plan, other)]
    assert figures[0] < 0.8 * figures[1]
