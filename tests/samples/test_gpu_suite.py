"""The GPU suite where there is no GPU: its steps, refusals, environment and command."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "samples" / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from gpu import environment, needs, suite, table  # noqa: E402
from gpu.results import read_rates  # noqa: E402
from gpu.steps import Command, Step, run_step  # noqa: E402


def script(*arguments: str, **environment_changes: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHON": sys.executable, **environment_changes}
    command = [str(BENCHMARKS / "gpu_suite.sh"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)


def python(code: str, **options) -> Command:
    return Command((sys.executable, "-c", code), **options)


def run_one(tmp_path: Path, *commands: Command, limit: float = 30, **options):
    return run_step(Step("s", limit, commands, **options), tmp_path, limit, tmp_path / "log.txt")


def test_steps_are_judged_by_status_and_words(tmp_path):
    assert run_one(tmp_path, python("print('3 passed')", says=r"[1-9]\d* passed")).status == "ok"
    skipped = run_one(tmp_path, python("print('3 skipped')", says=r"[1-9]\d* passed"))
    assert (skipped.status, "expected it to say" in skipped.detail) == ("failed", True)
    assert run_one(tmp_path, python("raise SystemExit(3)")).detail.endswith("status 3")
    planted = python("print('Invalid write'); raise SystemExit(1)", says="Invalid", fails=True)
    assert run_one(tmp_path, planted).status == "ok"
    missed = python("print('0 errors')", says="Invalid", fails=True)
    assert run_one(tmp_path, missed).status == "failed"
    assert "3 passed" in (tmp_path / "log.txt").read_text()


def test_a_step_at_its_limit_is_cut_with_what_it_started(tmp_path):
    command = Command(("sh", "-c", "sleep 60 & echo $!; sleep 60"))
    result = run_one(tmp_path, command, limit=2)
    assert result.status == "cut"
    assert result.seconds < 20
    child = int((tmp_path / "log.txt").read_text().split("\n[status")[0].splitlines()[-1])
    deadline = time.monotonic() + 20
    while is_running(child):
        assert time.monotonic() < deadline, "what the command started is still there"
        time.sleep(0.05)


def is_running(process: int) -> bool:
    """Whether it is there and no zombie."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_output_of_a_command_becomes_a_file(tmp_path):
    target = tmp_path / "rates.csv"
    rates = 'name,unit,rate,per_clock_sm,mhz,spread\n"a, b",bytes,2e12,0,0,0.01\n'
    run_one(tmp_path, python(f"print({rates!r}, end='')", output=target))
    assert read_rates(target)["a, b"]["rate"] == 2e12
    assert table.rates_table(read_rates(target))[2] == "| a, b | 2.00 T/s |  |  | 1.0% |"


def test_a_failed_build_ends_the_suite_and_other_failures_do_not(tmp_path):
    bad = Step("build", 30, (python("raise SystemExit(1)"),), needed=True)
    good = Step("tests", 30, (python("pass"),))
    assert [r.status for r in suite.run_all([bad, good], [], 400, tmp_path)] == ["failed"]
    results = suite.run_all([replace(bad, needed=False), good], ["attention"], 400, tmp_path)
    assert [r.status for r in results] == ["failed", "ok"]
    results = suite.run_all([good, good], ["tests"], 400, tmp_path)
    assert [r.status for r in results] == ["skipped", "skipped"]
    assert "| tests | skipped |" in suite.final_table(results, tmp_path)


@pytest.mark.parametrize("passes", [True, False])
def test_a_run_leaves_table_environment_and_log(passes, tmp_path, monkeypatch, capsys):
    tools = {"nvcc": "/nonexistent", "c++": "/nonexistent"}
    monkeypatch.setattr(suite, "examine", lambda _: needs.Machine(tools, "90a", "", ()))
    rates = "name,unit,rate,per_clock_sm,mhz,spread\nex2,results,4e12,16,1700,0.01\n"
    out = tmp_path / "out"
    steps = [
        Step("rates", 30, (python(f"print({rates!r}, end='')", output=out / "rates.csv"),)),
        Step("tests", 30, (python(f"print('5 passed'); raise SystemExit({int(not passes)})"),)),
    ]
    monkeypatch.setattr(suite, "plan", lambda *_: steps)
    assert suite.main([str(out), "--skip", "attention"]) == int(not passes)
    text = (out / "table.md").read_text()
    assert text.strip() in capsys.readouterr().out
    assert "| ex2 | 4.00 T/s | 16.0 | 1700 | 1.0% |" in text
    assert f"| tests | {'ok' if passes else 'failed'} |" in text
    assert "not measured" in text
    assert "5 passed" in (out / "log.txt").read_text()
    assert json.loads((out / "environment.json").read_text())["target"] == "90a"


def test_tests_that_need_the_gpu_alone_are_three():
    """Those of the pattern: a test renamed would run beside the others again."""
    source = (ROOT / "tests" / "plugins" / "test_cuda_gpu.py").read_text()
    names = re.findall(r"^def (test_\w+)", source, re.MULTILINE)
    patterns = suite.ALONE.split(" or ")
    assert [sum(pattern in name for name in names) for pattern in patterns] == [1, 1, 1]


def test_dry_run_says_every_step_and_runs_nothing(tmp_path):
    out = tmp_path / "out"
    done = script(str(out), "--dry-run", "--skip", "rates")
    assert done.returncode == 0, done.stderr
    for name in suite.STEPS:
        assert f"\n{name} (" in f"\n{done.stdout}"
    assert "rates (skipped)" in done.stdout
    assert not out.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_all_that_is_missing_is_named_at_once(tmp_path):
    empty = tmp_path / "bin"
    empty.mkdir()
    for tool in ("bash", "dirname", "env"):
        (empty / tool).symlink_to(f"/usr/bin/{tool}")
    done = script(str(tmp_path / "out"), PATH=str(empty), CUDA_HOME=str(tmp_path), CXX="no-such")
    assert done.returncode == 2
    assert "GPU: expected one that torch can use, got a CPU torch" in done.stderr
    for tool in ("c++", "compute-sanitizer"):
        assert f"missing: {tool}: expected" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--minutes", "0"], "--minutes: expected a positive number, got 0"),
        (["--skip", "everything"], "invalid choice: 'everything'"),
        ([str(ROOT)], "OUT_DIR: expected a new or empty directory"),
    ],
)
def test_bad_arguments_are_refused(arguments, said, capsys):
    with pytest.raises(SystemExit) as ended:
        suite.parse(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_another_python_is_refused(tmp_path):
    assert "expected 3.10 or later, found no no-such" in script(PYTHON="no-such").stderr
    old = tmp_path / "python"
    old.write_text('#!/bin/sh\ntest "$1" != -V || echo Python 3.8.1\nexit 1\n')
    old.chmod(0o755)
    assert "expected 3.10 or later, got Python 3.8.1" in script(PYTHON=str(old)).stderr


def test_an_old_nvcc_is_refused(tmp_path, monkeypatch):
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 12.4, V12.4.1'\n")
    nvcc.chmod(0o755)
    monkeypatch.setenv("CUDACXX", str(nvcc))
    machine = needs.examine(())
    assert any(line.startswith("nvcc: expected 12.8 or later") for line in machine.missing)
    assert machine.tools["nvcc"] == str(nvcc)


@pytest.mark.parametrize(("capability", "target"), [((9, 0), "90a"), ((8, 9), "89"), ((7, 5), "")])
def test_the_gpu_is_built_for_or_refused(capability, target, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    machine = needs.examine(())
    assert machine.target == target
    refused = "GPU: expected sm_80 or later, got sm_75 (Tesla T4)" in machine.missing
    assert refused == (target == "")


def test_a_bare_machine_has_what_the_suite_imports():
    """torch, numpy and pytest are there; nothing else of the package's needs is."""
    absent = ["safetensors", "diffusers", "transformers", "onnx", "onnxruntime", "onnxscript"]
    absent += ["typer", "rich", "matplotlib", "jinja2", "PIL", "threadpoolctl"]
    code = (
        "import sys\n"
        f"for name in {absent}: sys.modules[name] = None\n"
        "import gpu.suite, gpu.attention\n"
        "import tests.plugins.test_cuda_gpu\n"
        "import torch; print('ok')\n"
    )
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{BENCHMARKS}"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120, cwd=ROOT)
    assert done.stdout.strip() == "ok", done.stderr


def test_environment_says_what_was_measured(tmp_path):
    tools = {"nvcc": "/nonexistent", "c++": sys.executable}
    environment.write(tmp_path, ROOT, needs.Machine(tools, "90a", "", ()), ["out"])
    content = json.loads((tmp_path / environment.FILE).read_text())
    assert content["command"] == "samples/benchmarks/gpu_suite.sh out"
    assert content["packages"]["torch"] == torch.__version__
    assert len(content["source_sha256"]) == 64
    copy = tmp_path / "copy" / "plugins"
    copy.mkdir(parents=True)
    (copy / "a.cpp").write_text("1")
    one = environment.source_digest(tmp_path / "copy")
    (copy / "a.cpp").write_text("2")
    assert environment.source_digest(tmp_path / "copy") != one
    assert environment.git_version(tmp_path / "copy") == "none"
