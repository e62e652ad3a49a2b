"""verify: passes on what was exported, fails below a bound, refuses what does not belong."""

from __future__ import annotations

import os
import shutil

import pytest

QUICK = ("--steps", "2", "--samples", "1")


@pytest.fixture
def verify(paro, onnx_file, model_dir):
    def run(*extra, file=onnx_file, model=model_dir):
        return paro("verify", file, "--model", model, *QUICK, *extra)

    return run


def test_the_exported_file_passes(verify, plan_file, prompts_file):
    document = verify("--plan", plan_file, "--prompts", prompts_file, "--json").document()
    assert document["ok"] is True
    assert document["lowest_cosine"] > 0.99
    assert document["velocities"][0]["eager"]["relative_l2"] < 1e-2
    assert document["samples"][0]["prompt"] == "prompt 0"


def test_tables_name_both_references(verify, plan_file):
    outcome = verify("--plan", plan_file)
    assert outcome.status == 0
    for word in ("dense model", "plan in PyTorch", "random embedding", "passed"):
        assert word in outcome.stdout


def test_the_native_op_is_verified_where_it_is_asked_for(verify, plan_file):
    document = verify("--plan", plan_file, "--backend", "cpu", "--json").document()
    assert (document["ok"], document["backend"]) == (True, "cpu")
    assert "by cpu" in verify("--backend", "cpu").stdout
    verify("--backend", "tensorrt").assert_refused("backend tensorrt")


def test_a_bound_not_met_is_status_one(verify):
    outcome = verify("--min-cosine", "1.0")
    assert outcome.status == 1
    assert "failed: velocity" in outcome.stdout
    assert "Traceback" not in outcome.stderr


def test_other_model_other_plan_and_damage(
    verify, another_model, onnx_file, prompts_file, tmp_path
):
    verify(model=another_model).assert_refused("model", "export")
    verify("--plan", prompts_file).assert_refused(str(prompts_file))
    verify("--min-cosine", "2").assert_refused("--min-cosine")
    verify(file=tmp_path / "none.onnx").assert_refused("no such file")
    cut = tmp_path / "cut.onnx"
    shutil.copy(onnx_file, cut)
    os.truncate(cut, cut.stat().st_size // 2)
    verify(file=cut).assert_refused("cut.onnx")
