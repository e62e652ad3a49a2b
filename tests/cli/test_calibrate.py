"""calibrate: the plan it writes, and every input it refuses before or during the work."""

from __future__ import annotations

import errno
import json
import os
import shutil

import pytest

from paro_trt.errors import ArgumentError
from paro_trt.plan import load_plan, plan_mix
from tests.support.tiny_wan import TEXT_DIM

from .conftest import QUICK, change_config, write_prompts


@pytest.fixture
def calibrate(paro, model_dir, prompts_file, tmp_path):
    """Run calibrate with changes; whatever comes, the plan's name is out.paro.safetensors."""

    def run(
        *extra, model=model_dir, prompts=prompts_file, output=tmp_path / "out.paro.safetensors"
    ):
        arguments = ("calibrate", model, "-o", output, "--prompts", prompts, *QUICK)
        return paro(*arguments, *extra)

    return run


@pytest.fixture
def nothing_written(tmp_path):
    """Whether a refused calibration left no file of its own."""
    return lambda: not list(tmp_path.glob("out.paro*")) and not list(tmp_path.glob(".paro-*"))


def test_json_summary_describes_the_plan(calibrate, prompts_file, tmp_path):
    document = calibrate("--json", "--density", "0.6", "--no-pool", "--heldout", prompts_file)
    document = document.document()
    plan = load_plan(tmp_path / "out.paro.safetensors")
    assert document["content_hash"] == plan.content_hash()
    assert document["pool_dropped"] is False
    assert document["density"] == plan.density() <= 0.75  # the diagonal alone takes half
    assert document["calibration"]["measured"]["heldout_error"] > 0
    assert not list(tmp_path.glob("*.work"))


def test_a_cost_makes_a_mix(paro, model_dir, prompts_file, tmp_path):
    """Without a density, and at the query blocks that suit a cost."""
    output, options = tmp_path / "out.paro.safetensors", [*QUICK]
    del options[options.index("--block-q") : options.index("--block-q") + 2]
    outcome = paro(
        "calibrate", model_dir, "-o", output, "--prompts", prompts_file, *options, "--cost", "0.6"
    )
    assert outcome.status == 0, outcome.stderr
    plan = load_plan(output)
    mix = plan_mix(plan)
    assert plan.block_q == 64
    assert mix.cost <= 0.6
    for words in (
        "(asked for: cost 0.6)",
        f"{mix.cost:.4f} of the keys",
        f"exact {mix.exact:.4f}, fine {mix.fine:.4f}, coarse {mix.coarse:.4f}",
    ):
        assert words in outcome.stdout


def test_options_reach_the_plan(calibrate, tmp_path):
    outcome = calibrate(
        "--mass", "0.9", "--qk-bits", "16", "--pv-bits", "4", "--block-k", "128", "--bins", "1",
        "--order-metric", "paper", "--mask-metric", "mass", "--allocate", "head", "--seed", "5",
    )  # fmt: skip
    assert outcome.status == 0, outcome.stderr
    plan = load_plan(tmp_path / "out.paro.safetensors")
    assert (plan.block_q, plan.block_k, plan.bins) == (64, 128, 1)
    assert {layer.qk_bits for layer in plan.layers} == {16}
    assert {layer.pv_bits for layer in plan.layers} <= {4, 8}
    record = plan.calibration
    assert (record.order_metric, record.mask_metric, record.seed) == ("paper", "mass", 5)


@pytest.mark.parametrize(("options", "smoothing"), [((), True), (("--no-smoothing",), False)])
def test_smoothing_is_an_option(calibrate, monkeypatch, options, smoothing):
    asked = {}

    def refuse(*_, **settings):
        asked.update(settings)
        raise ArgumentError("everything", expected="nothing", actual="something")

    with monkeypatch.context() as patch:
        patch.setattr("paro_trt.api.calibrate", refuse)
        assert calibrate("--qk-bits", "4", *options).status != 0
    assert (asked["qk_bits"], asked["smoothing"]) == (4, smoothing)


@pytest.mark.parametrize(
    ("extra", "word"),
    [
        (("--density", "0.5", "--mass", "0.9"), "--density, --mass"),
        (
            ("--density", "30"),
            "--density: expected a share in (0, 1], got 30; fix: 30 percent is 0.3",
        ),
        (("--qk-bits", "7"), "--qk-bits"),
        (("--block-q", "96"), "--block-q"),
        (("--speedup", "2"), "--speedup: expected none without measured effects"),
        (
            ("--allocate", "measured", "--speedup", "90"),
            "--speedup: expected at most ",
        ),
        (("--allocate", "measured", "--levels", ".1,x"), "--levels"),
        (("--allocate", "measured", "--target", "sm_90", "--qk-bits", "4"), "--qk-bits"),
        (("--steps", "1"), "--steps"),
        (("--latent", "2,16"), "--latent"),
        (("--latent", "2,16,x"), "--latent"),
        (("--latent", "2,15,16"), "latent height"),
        (("--guidance-scale", "3"), "--guidance-scale"),
    ],
)
def test_options_out_of_range(calibrate, nothing_written, extra, word):
    calibrate(*extra).assert_refused(word)
    assert nothing_written()


def test_output_must_have_a_place(calibrate, tmp_path):
    calibrate(output=tmp_path / "no" / "plan").assert_refused("mkdir -p")
    calibrate(output=tmp_path).assert_refused("a directory")
    assert not (tmp_path / "no").exists()


def test_missing_or_wrong_model_directory(calibrate, tmp_path, prompts_file, nothing_written):
    calibrate(model=tmp_path / "nowhere").assert_refused("nowhere", "no such directory")
    calibrate(model=prompts_file).assert_refused("a file")
    calibrate(model=tmp_path).assert_refused("config.json")
    assert nothing_written()


def test_unknown_family_and_damaged_weights(calibrate, model_dir, tmp_path, nothing_written):
    strange = tmp_path / "strange"
    shutil.copytree(model_dir, strange)
    change_config(strange, _class_name="StrangeTransformer")
    calibrate(model=strange).assert_refused("StrangeTransformer", "WanTransformer3DModel")
    change_config(strange, _class_name="WanTransformer3DModel")
    weights = strange / "diffusion_pytorch_model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)
    calibrate(model=strange).assert_refused(weights.name)
    assert nothing_written()


def test_prompts_missing_damaged_or_of_another_encoder(calibrate, tmp_path, nothing_written):
    calibrate(prompts=tmp_path / "none").assert_refused("none")
    (tmp_path / "text.safetensors").write_text("a red ball")
    calibrate(prompts=tmp_path / "text.safetensors").assert_refused("text.safetensors")
    wide = tmp_path / "wide.safetensors"
    write_prompts(wide, channels=TEXT_DIM + 1)
    calibrate(prompts=wide).assert_refused(f"[1, 5, {TEXT_DIM}]")
    assert nothing_written()


def test_full_disk_keeps_finished_work_and_the_same_command_resumes(
    calibrate, tmp_path, monkeypatch
):
    output = tmp_path / "out.paro.safetensors"
    written = []
    sync = os.fsync

    def fill_up(descriptor):
        written.append(descriptor)
        if len(written) > 8:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fill_up)
        calibrate().assert_refused("No space left on device")
    assert not output.exists()
    assert not list(tmp_path.rglob(".paro-*"))
    work = output.with_name(output.name + ".work")
    assert json.loads((work / "fingerprint.json").read_text())
    kept = {file.name: file.stat().st_mtime_ns for file in work.glob("run-*")}
    assert kept
    outcome = calibrate()
    assert outcome.status == 0
    assert "resuming" in outcome.stderr
    assert output.exists()
    assert not work.exists()


def test_unfinished_work_of_other_settings_is_not_mixed_in(calibrate, tmp_path):
    work = tmp_path / "out.paro.safetensors.work"
    work.mkdir()
    (work / "fingerprint.json").write_text('{"settings": {}}')
    calibrate().assert_refused("out.paro.safetensors.work", "another output file")


def test_given_timesteps_and_the_notes_of_the_schedule(calibrate, tmp_path):
    outcome = calibrate("--timesteps", "1000,750,500,250", "--bins", "2")
    assert outcome.status == 0, outcome.stderr
    plan = load_plan(tmp_path / "out.paro.safetensors")
    assert plan.bin_boundaries == (625.0,)
    assert "sampled at given timesteps 1000, 750, 500, 250" in plan.calibration.notes
    assert "sampled at given timesteps" in outcome.stderr
    calibrate("--timesteps", "soon").assert_refused("--timesteps", "numbers")
    calibrate("--guidance-scale-2", "3").assert_refused("--guidance-scale-2", "one transformer")
