"""report: the page of a plan, and what it refuses."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from paro_trt.plan import load_plan


def test_writes_the_page_of_a_plan(paro, plan_file, tmp_path):
    target = tmp_path / "report.html"
    outcome = paro("report", plan_file, "-o", target)
    assert outcome.status == 0, outcome.stderr
    page = target.read_text()
    plan = load_plan(plan_file)
    assert page.startswith("<!DOCTYPE html>")
    assert plan.content_hash() in page
    assert all(layer.name in page for layer in plan.layers)
    assert f"<bdi>{plan_file.name}</bdi>" in page
    assert str(plan_file.parent) not in page


def test_json_says_what_was_written(paro, plan_file, tmp_path):
    target = tmp_path / "report.html"
    document = paro("report", plan_file, "-o", target, "--json").document()
    assert document["bytes"] == target.stat().st_size
    assert document["cells_after"] == [2, 2]


def test_refuses_bad_input_and_writes_nothing(paro, plan_file, prompts_file, tmp_path):
    target = tmp_path / "report.html"
    cut = tmp_path / "cut.paro.safetensors"
    shutil.copy(plan_file, cut)
    os.truncate(cut, cut.stat().st_size // 2)
    for bad in (cut, prompts_file):
        paro("report", bad, "-o", target).assert_refused(bad.name)
    paro("report", tmp_path / "none", "-o", target).assert_refused("no such file")
    paro("report", plan_file, "-o", tmp_path / "no" / "r.html").assert_refused("mkdir -p")
    paro("report", plan_file, "-o", tmp_path).assert_refused("a directory")
    assert sorted(tmp_path.iterdir()) == [cut]


def test_never_overwrites_the_plan(paro, plan_file, tmp_path):
    copy = tmp_path / "plan"
    shutil.copy(plan_file, copy)
    paro("report", copy, "-o", copy).assert_refused("the file that is read")
    assert copy.read_bytes() == plan_file.read_bytes()


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from paro_trt.cli.app import app; from typer.testing import CliRunner;"
        "assert CliRunner().invoke(app, ['report', '--help']).exit_code == 0;"
        "heavy = {'torch', 'numpy', 'jinja2'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
