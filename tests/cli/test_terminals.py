"""Terminals, encodings and shells as users have them: no traceback, no lost exit status."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from safetensors.torch import save_file
from typer.testing import CliRunner

from paro_trt.cli import output
from paro_trt.cli.app import app
from tests.support.tiny import variants_of

VERBS = (
    "calibrate",
    "export",
    "build",
    "verify",
    "generate",
    "run",
    "bench",
    "triton",
    "encode",
    "refit",
)
UNDECODABLE = os.fsdecode(b"caf\xe9 \xff")


def program(*words: object, **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "paro_trt", *map(str, words)]
    return subprocess.run(
        command, capture_output=True, env={**os.environ, **environment}, check=False
    )


def shell(line: str) -> subprocess.CompletedProcess[str]:
    """A line of bash, in which `paro-trt` is the program."""
    start = f'paro-trt() {{ "{sys.executable}" -m paro_trt "$@"; }}\n'
    return subprocess.run(["bash", "-c", start + line], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_name_can_be_shown_in_any_encoding(encoding, plan_file, tmp_path):
    for name in ("план 流", UNDECODABLE):
        plan = tmp_path / f"{name}.paro.safetensors"
        plan.hardlink_to(plan_file)
        for status, path in ((0, plan), (2, tmp_path / f"{name} gone")):
            done = program("inspect", path, PYTHONIOENCODING=encoding)
            assert b"Traceback" not in done.stderr
            assert done.returncode == status
            assert b"caf" in done.stdout + done.stderr or "план" in name
            assert status == 0 or done.stderr.count(b"\n") == 1


def test_a_page_of_a_plan_with_an_undecodable_name(paro, plan_file, tmp_path):
    plan = tmp_path / UNDECODABLE
    plan.hardlink_to(plan_file)
    assert paro("report", plan, "-o", tmp_path / "page.html", "--json").status == 0
    assert "caf\ufffd" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_name_that_another_library_cannot_open_is_one_error(onnx_file, tmp_path):
    odd = tmp_path / f"{UNDECODABLE}.onnx"
    odd.hardlink_to(onnx_file)
    done = program("run", odd, "--inputs", onnx_file, "-o", tmp_path / "out")
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "status", "unbuffered"),
    [("--version", 0, "1"), ("-h", 0, ""), ("inspect gone 2>&1", 2, ""), ("run 2>&1", 2, "1")],
)
def test_a_reader_that_leaves_does_not_change_the_status(words, status, unbuffered):
    line = f"export PYTHONUNBUFFERED={unbuffered}; paro-trt {words} | true; echo ${{PIPESTATUS[0]}}"
    done = shell(line)
    assert done.stdout.split() == [str(status)]
    assert done.stderr == ""


def test_a_full_disk_behind_stdout_is_one_line_and_status_two():
    done = shell(
        "paro-trt --version > /dev/full; echo $?; paro-trt inspect gone 2>/dev/full; echo $?"
    )
    assert done.stdout.split() == ["2", "2"]
    assert done.stderr.startswith("error: No space left")
    assert done.stderr.count("\n") == 1


def test_closed_streams_are_no_error():
    assert shell("paro-trt --version >&-; echo $?").stdout.split() == ["0"]
    assert shell("paro-trt inspect gone 2>&-; echo $?").stdout.split() == ["2"]


@pytest.mark.parametrize("columns", [40, 80, 200])
@pytest.mark.parametrize("verb", VERBS)
def test_help_keeps_option_names_whole(verb, columns):
    command = typer.main.get_command(app).commands[verb]
    lines = CliRunner().invoke(app, [verb, "-h"], env={"COLUMNS": str(columns)}).stdout.splitlines()
    names = [option for parameter in command.params for option in parameter.opts]
    assert names
    for name in (*names, "--help"):
        assert any(re.search(rf"(?<![\w-]){name}(?![\w-])", line) for line in lines), name
    assert all(len(line) <= columns for line in lines if not line.lstrip().startswith("-"))


def test_help_shows_defaults_that_are_no_values(paro):
    assert "[default: tensorrt for an engine, else ort]" in " ".join(
        paro("run", "-h").stdout.split()
    )


def test_short_help_is_help(paro):
    assert paro("-h").stdout == paro("--help").stdout
    assert paro("run", "-h").stdout == paro("run", "--help").stdout


def test_completion_of_verbs_options_and_values():
    script = program("--show-completion", "bash")
    assert script.returncode == 0
    assert b"_PARO_TRT_COMPLETE" in script.stdout
    for words, at, expected in (
        ("paro-trt exp", 1, "export"),
        ("paro-trt export --ext", 2, "--external-data"),
        ("paro-trt export --dtype ", 3, "bfloat16"),
    ):
        variables = {
            "_PARO_TRT_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(at),
        }  # fmt: skip
        code = "import sys; sys.argv = ['paro-trt']; from paro_trt.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True,
            env={**os.environ, **variables}, check=False,
        )  # fmt: skip
        assert expected in done.stdout.split()


def test_tilde_is_the_home_directory_in_every_kind_of_value(paro, plan_file, monkeypatch):
    monkeypatch.setenv("HOME", str(plan_file.parent))
    assert paro("inspect", f"~/{plan_file.name}").status == 0
    gone = str(plan_file.parent / "gone")
    paro("export", "~/gone", f"--plan=~/{plan_file.name}", "-o", "~/o.onnx").assert_refused(gone)
    paro("generate", "~/gone", "--prompt", "~/x", "-o", "~/a.png").assert_refused(gone)
    paro("verify", plan_file, "--pipeline=~/gone").assert_refused()


def test_markup_and_emoji_codes_in_names_are_text(paro, plan_file, tmp_path):
    plan = tmp_path / "[bold]:smile:[x].safetensors"
    plan.hardlink_to(plan_file)
    shown = paro("inspect", plan)
    assert shown.status == 0
    assert plan.name in shown.stdout
    page = paro("report", plan, "-o", tmp_path / "[red]page.html")
    assert "[red]page.html" in page.stdout


@pytest.mark.parametrize("columns", ["40", "110"])
def test_the_next_command_is_one_line_that_a_shell_reads_back(columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    words = ["export", Path("/models/wan 2.1 it's [a]") / ("long" * 30), "--plan", "план $1"]
    output.print_facts("wrote it", {output.NEXT: output.command_line(*words), "size": "1 MB"})
    last = capsys.readouterr().out.splitlines()[-1]
    assert shlex.split(last)[1:] == ["paro-trt", *map(str, words)]


def test_errors_of_the_python_api_name_options_as_they_are_typed(paro, model_dir, tmp_path):
    def ended(*words):
        plan = tmp_path / "plan.safetensors"
        return paro("calibrate", model_dir, "-o", plan, *words)

    prompts = ("--prompts", tmp_path / "gone.safetensors")
    ended(*prompts, "--latent", "2,16,16", "--captured-steps", "0").assert_refused(
        "error: --captured-steps: expected at least 1"
    )
    ended(*prompts, "--video", "832x480x81").assert_refused("error: --video: ", "81,480,832")


def test_guidance_of_distilled_models_is_explained(paro, tmp_path):
    (tiny,) = variants_of("flux")[:1]
    model, prompts = tmp_path / "model", tmp_path / "prompts.safetensors"
    tiny.build(0).save_pretrained(model)
    made = tiny.prompts(1)
    save_file(dict(made.tensors), prompts, metadata={"prompts": json.dumps(list(made.texts))})
    latent = ",".join(map(str, tiny.latent_size))
    words = ("--prompts", prompts, "--latent", latent, "--guidance-scale", "3.5")
    paro("calibrate", model, "-o", tmp_path / "a.safetensors", *words).assert_refused(
        "--guidance-scale", "tensor guidance"
    )
