"""The GPU suite where there is no GPU: what it accepts as measured, and what it refuses."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from paro_trt.bench.measure import cpu_bench
from paro_trt.bench.results import Files, Row, read_rows
from paro_trt.bench.table import by_density
from paro_trt.op.spec import AttentionConfig
from samples.benchmarks.gpu import attention, environment, needs, suite
from samples.benchmarks.gpu.shapes import COGVIDEOX, DENSITIES, WAN_480P, plan
from samples.benchmarks.gpu.steps import Command, Step, run_step
from samples.benchmarks.gpu.targets import HOST_CALL, outcomes

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "samples" / "benchmarks" / "gpu_suite.sh"


def script(*arguments: str, **environment_changes: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHON": sys.executable, **environment_changes}
    command = [str(SCRIPT), *arguments]
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
    """Those of the pattern: a test renamed would run next to the others again."""
    source = (ROOT / "tests" / "plugins" / "test_cuda_gpu.py").read_text()
    names = re.findall(r"^def (test_\w+)", source, re.MULTILINE)
    patterns = suite.ALONE.split(" or ")
    assert [sum(pattern in name for name in names) for pattern in patterns] == [1, 1, 1]


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
        "import samples.benchmarks.gpu.suite, samples.benchmarks.gpu.attention\n"
        "import tests.plugins.test_cuda_gpu_version_2\n"
        "import torch; print('ok')\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
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


def test_groups_hold_every_shape_bit_width_and_density_once():
    asked = [
        (group.case.tokens, group.case.head_dim, bits, density)
        for group in plan()
        if not group.flex and group.case.config == AttentionConfig(128, 64)
        for (_, bits), density in itertools.product(group.precisions, group.densities)
    ]
    tokens = (4608, 17776, 32760, 75600)
    assert sorted(asked) == sorted(itertools.product(tokens, (64, 128), (8, 16), DENSITIES))
    assert len({group.case.name for group in plan()}) == len(plan())


def test_stage_1_has_rows_of_both_head_dims_pooled_and_not():
    found = {
        (group.case.head_dim, group.case.config.pool_dropped)
        for group in plan()[:5]
        if 0.25 in group.densities
    }
    assert found == set(itertools.product((64, 128), (False, True)))


def test_the_groups_of_the_targets_come_first():
    first = [(g.case.tokens, g.case.head_dim, g.precisions, g.densities) for g in plan()[:2]]
    assert first == [
        (layer.tokens, layer.head_dim, ((torch.bfloat16, 8),), (1.0, 0.25))
        for layer in (COGVIDEOX, WAN_480P)
    ]


def test_orders_are_permutations_that_leave_text_last():
    orders = COGVIDEOX.orders()
    assert torch.equal(orders.sort(dim=1).values[0], torch.arange(17776).int())
    assert torch.equal(orders.sort(dim=1).values[1], torch.arange(17776).int())
    assert not torch.equal(orders[0], orders[1])
    assert torch.equal(orders[1, -226:], torch.arange(17550, 17776).int())


def test_no_group_begins_that_may_not_end_in_time(tmp_path, monkeypatch):
    clock = itertools.count(step=10.0)
    monkeypatch.setattr(attention, "measure_group", lambda *_: ([Row("g", 1, 1, 64, "x")], []))
    groups = plan() * 2
    files = Files(tmp_path)
    done = attention.run(cpu_bench(1), groups, 200.0, files, lambda: next(clock))
    assert 1 < done < 10
    assert len(read_rows(tmp_path)) == done


def test_host_time_of_a_call():
    row = attention.host_time(cpu_bench(1))
    assert row.contender == HOST_CALL
    assert row.ms > 0


def target_rows() -> list[Row]:
    def row(shape, kernel, density, **columns):
        sizes = (shape.tokens, shape.heads, shape.head_dim)
        return Row(
            "g", *sizes, "PARO", kernel, "int8", block_k=64, density=density, ms=1.0, **columns
        )

    return [
        row(COGVIDEOX, "wgmma", 0.25, speedup=5.0, stage1_share=0.04, stage1_copy_share=0.5),
        row(COGVIDEOX, "mma.sync", 0.25, speedup=2.5),
        row(WAN_480P, "mma.sync", 1.0, speedup=0.71, tops=500.0),
        row(WAN_480P, "mma.sync", 0.25, speedup=2.6, tops=460.0),
        Row("one call", 128, 1, 64, HOST_CALL, ms=0.012),
    ]


def test_targets_are_held_against_their_own_rows():
    verdicts = {o.target.what: (o.value, o.verdict) for o in outcomes(target_rows())}
    sparse = "17,776 x 48 x 64, density 0.25, times fastest SDPA"
    assert verdicts[f"wgmma, {sparse}"] == (5.0, "met")
    assert verdicts[f"mma.sync, {sparse}"] == (2.5, "missed")
    dense = "32,760 x 40 x 128, density 1, times fastest SDPA"
    assert verdicts[f"mma.sync, {dense}"] == (0.71, "met")
    assert verdicts[f"wgmma, {dense}"] == (None, "not measured")
    of_dense = "mma.sync, 32,760 x 40 x 128, TOPS at 0.25 of own dense"
    assert verdicts[of_dense] == (0.92, "met")
    assert verdicts["stage 1, 17,776 x 48 x 64, share of the time"] == (0.04, "met")
    assert verdicts["stage 1, 17,776 x 48 x 64, of copy rate"] == (0.5, "missed")
    assert verdicts["host time of one call, launches included, us"] == (12.0, "missed")


def test_targets_are_those_of_the_design():
    wanted = {(o.target.what.split(",")[0], o.target.wanted) for o in outcomes([])}
    assert {("mma.sync", 0.7), ("mma.sync", 2.6), ("wgmma", 1.3), ("wgmma", 4.8)} <= wanted
    assert all(outcome.verdict == "not measured" for outcome in outcomes([]))


def test_attention_table_has_a_line_a_contender():
    lines = by_density(target_rows(), DENSITIES)
    assert len(lines) == 2 + 3
    assert lines[4] == "| 32,760 x 40 x 128 | PARO mma.sync int8 | 1 (0.71x) |  |  | 1 (2.60x) |  |"
