"""export: the file it writes, and what it refuses without leaving a part of one."""

from __future__ import annotations

import errno
import os

import pytest

from paro_trt.plan import load_plan


@pytest.fixture
def export(paro, model_dir, plan_file, tmp_path):
    def run(*extra, model=model_dir, plan=plan_file, output=tmp_path / "out.onnx"):
        return paro("export", model, "--plan", plan, "-o", output, *extra)

    return run


def leftovers(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith((".paro", "out"))]


def test_json_summary(export_summary, onnx_file, plan_file):
    names = [layer.name for layer in load_plan(plan_file).layers]
    assert export_summary["paro_attention"] == names
    assert export_summary["body"] == "sparse"
    assert export_summary["bytes"] == onnx_file.stat().st_size


@pytest.mark.long
def test_options_reach_the_file(export, paro, tmp_path):
    document = export("--json", "--body", "none", "--dtype", "float16").document()
    assert document["body"] == "none"
    shown = paro("inspect", tmp_path / "out.onnx", "--json").document()
    assert shown["body"] == "none"
    assert shown["outputs"][0]["dtype"] == "float16"


@pytest.mark.long
def test_dense_baseline_has_no_paro_nodes(export, paro, model_dir, tmp_path):
    done = export("--dense")
    assert done.status == 0
    assert "paro-trt build" in done.stdout
    document = paro("inspect", tmp_path / "out.onnx", "--json").document()
    assert document["outputs"][0]["dtype"] == "bfloat16"  # what Wan was released in
    verified = paro("verify", tmp_path / "out.onnx", "--model", model_dir)
    verified.assert_refused("export with --dtype float32, or build an engine")
    assert document["paro_attention"] == []
    assert "paro.plan_hash" not in document["metadata"]


def test_plan_of_another_model(export, another_model, tmp_path):
    export(model=another_model).assert_refused("the plan's model", "calibrate a plan")
    assert leftovers(tmp_path) == []


def test_plan_missing_or_damaged(export, plan_file, prompts_file, tmp_path):
    export(plan=tmp_path / "none").assert_refused("none", "no such file")
    cut = tmp_path / "cut.paro.safetensors"
    cut.write_bytes(plan_file.read_bytes()[:-9])
    export(plan=cut).assert_refused("cut.paro.safetensors")
    export(plan=prompts_file).assert_refused(str(prompts_file))
    assert leftovers(tmp_path) == []


def test_model_or_output_that_is_not_there(export, tmp_path):
    export(model=tmp_path / "nowhere").assert_refused("no such directory")
    export(output=tmp_path / "no" / "out.onnx").assert_refused("mkdir -p")
    export(output=tmp_path).assert_refused("a directory")
    export("--opset", "7").assert_refused("opset")


def test_full_disk_leaves_nothing_and_keeps_the_old_file(export, monkeypatch, tmp_path):
    from paro_trt.onnx_export import exporter

    def fill_up(*_arguments, **_options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    older = b"\x08\x0aan older model"  # as ONNX files begin
    (tmp_path / "out.onnx").write_bytes(older)
    monkeypatch.setattr(exporter, "_prepared", fill_up)
    export().assert_refused("No space left on device")
    assert leftovers(tmp_path) == ["out.onnx"]
    assert (tmp_path / "out.onnx").read_bytes() == older


@pytest.mark.long
def test_several_plans_give_files_that_share_weights(
    paro, model_dir, plan_file, prompts_file, tmp_path
):
    other = tmp_path / "other.paro.safetensors"
    quick = ("--block-q", "64", "--steps", "4", "--captured-steps", "1", "--video", "9,112,80")
    made = paro("calibrate", model_dir, "-o", other, "--prompts", prompts_file, *quick)
    assert made.status == 0, made.stderr
    target = tmp_path / "tiny.onnx"
    plans = ("--plan", plan_file, "--plan", other)
    document = paro(
        "export", model_dir, *plans, "-o", target, "--dtype", "float32", "--json"
    ).document()
    assert [file["file"] for file in document["files"]] == [
        str(tmp_path / "tiny-2x8x8.onnx"), str(tmp_path / "tiny-3x7x5.onnx"),
    ]  # fmt: skip
    assert (tmp_path / "tiny.onnx.data").is_file()
    verified = paro("verify", tmp_path / "tiny-3x7x5.onnx", "--model", model_dir, "--steps", 2)
    assert verified.status == 0, verified.stderr
