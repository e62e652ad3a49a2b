"""Ctrl-C, a real one, in the middle of calibrate and export."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.native_builds import ROOT

from .conftest import QUICK, Outcome

PATIENCE_SECONDS = 120


@pytest.fixture
def interrupted():
    """Start a command, wait until a condition holds, send SIGINT and see how it ends."""

    def run(ready, *arguments):
        process = subprocess.Popen(
            [sys.executable, "-m", "paro_trt", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A test run in the background of a shell has SIGINT ignored, which children inherit.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not ready() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        assert process.poll() is None, process.stderr.read()
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=PATIENCE_SECONDS)
        return Outcome(process.returncode, stdout, stderr)

    return run


def test_calibrate_keeps_its_work_and_says_how_to_resume(
    interrupted, paro, model_dir, prompts_file, tmp_path
):
    output = tmp_path / "out.paro.safetensors"
    work = tmp_path / "out.paro.safetensors.work"
    arguments = ("calibrate", model_dir, "-o", output, "--prompts", prompts_file, *QUICK)
    outcome = interrupted((work / "run-0@prompt00000.safetensors").exists, *arguments)
    outcome.assert_refused("same command", f"{work}", status=130, begin="interrupted: ")
    assert not output.exists()
    assert not list(tmp_path.rglob(".paro-*"))
    resumed = paro(*arguments)
    assert resumed.status == 0
    assert "resuming" in resumed.stderr
    assert output.exists()


def test_the_status_is_ours_wherever_ctrl_c_comes(tmp_path):
    """Also in code executed from a string, of which a tracer writes much."""
    (tmp_path / "tracer.py").write_text(
        "from paro_trt.cli.policy import exit_policy\n"
        "with exit_policy():\n    exec('raise KeyboardInterrupt')\n"
    )
    command = [sys.executable, "-m", "tracer"]
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))}
    assert subprocess.run(command, env=paths, stderr=subprocess.DEVNULL).returncode == 130


def test_ctrl_c_while_the_verbs_are_imported_is_one_line(tmp_path):
    (tmp_path / "typer.py").write_text("raise KeyboardInterrupt\n")
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))}
    command = [sys.executable, "-m", "paro_trt", "--version"]
    ended = subprocess.run(command, env=paths, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (130, "")
    assert ended.stderr == "interrupted: nothing was written\n"


@pytest.mark.long
def test_export_leaves_nothing(interrupted, model_dir, plan_file, tmp_path):
    outcome = interrupted(
        lambda: any(tmp_path.iterdir()),  # the staging directory: tracing has begun
        *("export", model_dir, "--plan", plan_file, "-o", tmp_path / "out.onnx"),
    )
    outcome.assert_refused(status=130, begin="interrupted: ")
    assert list(tmp_path.iterdir()) == []
