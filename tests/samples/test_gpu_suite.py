"""The GPU suite where there is no GPU: its plan, refusals, tables; its benchmark on a CPU."""

from __future__ import annotations

import csv
import itertools
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
SUITE = BENCHMARKS / "gpu"
STUB = Path(__file__).with_name("cuda_stub")
sys.path.insert(0, str(BENCHMARKS))

from gpu import attention, environment, needs, suite, table  # noqa: E402
from gpu.attention import Bench, Peaks, WrongResultError, measure_group  # noqa: E402
from gpu.contenders import dense_baselines, ours  # noqa: E402
from gpu.problem import make_problem  # noqa: E402
from gpu.results import FILE, HOST_CALL, Files, Row, read_rates, read_rows  # noqa: E402
from gpu.shapes import COGVIDEOX, DENSITIES, WAN_480P, Group, Shape, plan  # noqa: E402
from gpu.steps import Command, Step, run_step  # noqa: E402
from gpu.targets import outcomes  # noqa: E402
from gpu.timing import HostClock, Turn, split_by_stage, time_in_turns  # noqa: E402

from paro_trt.native import library_path, load_library  # noqa: E402
from tests.plugins.emulator_builds import require, run  # noqa: E402

SMALL = Shape((2, 8, 20), 30, 2, 64, "none")
CPU = torch.device("cpu")


def script(*arguments: str, **environment_changes: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHON": sys.executable, **environment_changes}
    command = [str(BENCHMARKS / "gpu_suite.sh"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)


# ---- plan ----


def test_groups_hold_every_shape_bit_width_and_density_once():
    asked = [
        (group.shape.tokens, group.shape.head_dim, bits, density)
        for group in plan()
        if not group.peers and group.block_k == 64
        for bits, density in itertools.product(group.bits, group.densities)
    ]
    tokens = (4608, 17776, 32760, 75600)
    assert sorted(asked) == sorted(itertools.product(tokens, (64, 128), (8, 16), DENSITIES))
    assert len({group.name for group in plan()}) == len(plan())


def test_the_groups_of_the_targets_come_first():
    first = [(group.shape, group.bits, group.densities) for group in plan()[:2]]
    assert first == [(COGVIDEOX, (8,), (1.0, 0.25)), (WAN_480P, (8,), (1.0, 0.25))]


def test_orders_are_permutations_that_leave_text_last():
    orders = COGVIDEOX.orders()
    assert torch.equal(orders.sort(dim=1).values[0], torch.arange(17776).int())
    assert torch.equal(orders.sort(dim=1).values[1], torch.arange(17776).int())
    assert not torch.equal(orders[0], orders[1])
    assert torch.equal(orders[1, -226:], torch.arange(17550, 17776).int())


def test_tests_that_need_the_gpu_alone_are_three():
    """Those of the pattern: a test renamed would run beside the others again."""
    source = (ROOT / "tests" / "plugins" / "test_cuda_gpu.py").read_text()
    names = re.findall(r"^def (test_\w+)", source, re.MULTILINE)
    patterns = suite.ALONE.split(" or ")
    assert [sum(pattern in name for name in names) for pattern in patterns] == [1, 1, 1]


# ---- the benchmark, on the CPU backend ----


@pytest.fixture(scope="module")
def bench() -> Bench:
    library = load_library(library_path("cpu"))
    return Bench(CPU, library, HostClock(), Peaks({16: 1e12, 8: 2e12}, 1e10), 0, threads=1)


def test_problem_rotates_past_the_cache():
    bytes_a_set = 4 * SMALL.tokens * SMALL.heads * SMALL.head_dim * 2
    assert len(make_problem(SMALL, 64, CPU, torch.bfloat16, 0, 1).sets) == 1
    assert len(make_problem(SMALL, 64, CPU, torch.bfloat16, bytes_a_set, 1).sets) == 4


@pytest.mark.parametrize("bits", [16, 8])
@pytest.mark.parametrize("block_k", [64, 128])
@pytest.mark.parametrize("density", [1.0, 0.5])
def test_ours_is_what_the_check_expects(bench, bits, block_k, density, fresh_seed):
    """Reordered and masked."""
    problem = make_problem(SMALL, block_k, CPU, torch.bfloat16, 0, fresh_seed)
    (contender,) = ours(problem, bench.library, bits, density, 1)
    output = contender.run(0)
    assert contender.check(output) <= contender.largest_error
    shifted = output.roll(1, dims=1)
    assert contender.check(shifted) > contender.largest_error
    assert contender.check(torch.full_like(output, float("nan"))) != contender.check(output)
    if density < 1:
        (dense,) = ours(problem, bench.library, bits, 1.0, 1)
        assert contender.check(dense.run(0)) > contender.largest_error


def test_calls_take_the_sets_of_inputs_in_turn(bench, fresh_seed):
    bytes_a_set = 4 * SMALL.tokens * SMALL.heads * SMALL.head_dim * 2
    problem = make_problem(SMALL, 64, CPU, torch.bfloat16, bytes_a_set // 2, fresh_seed)
    assert len(problem.sets) == 2
    for contender in (*ours(problem, bench.library, 8, 0.5, 1), *dense_baselines(problem)):
        errors = [contender.check(contender.run(index)) for index in range(3)]
        assert errors[1] > contender.largest_error
        assert errors[0] == errors[2] <= contender.largest_error


def test_group_becomes_rows_and_files(bench, tmp_path):
    group = Group(SMALL, (8,), (1.0, 0.5))
    stages = lambda run: (2e-3, 6e-3) if run(0) is not None else (0.0, 0.0)  # noqa: E731
    rows, timings = measure_group(replace(bench, stages=stages), group, 0.0)
    assert [(row.contender, row.bits, row.density) for row in rows] == [
        ("SDPA", 16, 1.0), ("PARO", 8, 1.0), ("PARO", 8, 0.5),
    ]  # fmt: skip
    sdpa, dense, sparse = rows
    assert sdpa.speedup == 1.0
    assert sdpa.baseline == "SDPA"
    key_blocks = -(-SMALL.tokens // 64)
    kept = max(1, round(0.5 * key_blocks)) / key_blocks
    operations = 4 * SMALL.tokens**2 * 64 * 2
    assert dense.tops == pytest.approx(operations / dense.ms / 1e9)
    assert sparse.tops == pytest.approx(kept * operations / sparse.ms / 1e9)
    assert sparse.peak_share == pytest.approx(sparse.tops / 2)
    assert sparse.stage1_share == pytest.approx(0.25)
    elements = 2 * SMALL.tokens * 2 * 64
    least = elements * 3 + 2 * 4 * 2 * key_blocks
    assert sparse.stage1_copy_share == pytest.approx(least / 2e-3 / 1e10)
    files = Files(tmp_path)
    files.add(rows, timings)
    again = read_rows(tmp_path)
    assert again[0].group == group.name
    assert again[2].ms == pytest.approx(rows[2].ms, rel=1e-5)
    assert again[0].stage1_ms is None
    with (tmp_path / "rounds.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == sum(len(timing.seconds) for timing in timings)


def test_a_wrong_result_of_ours_ends_it_and_one_of_a_baseline_is_left_out(bench, monkeypatch):
    group = Group(SMALL, (8,), (0.5,))
    (contender,) = ours(
        make_problem(SMALL, 64, CPU, torch.bfloat16, 0, 0), bench.library, 8, 0.5, 1
    )
    baseline = next(dense_baselines(make_problem(SMALL, 64, CPU, torch.bfloat16, 0, 0)))
    wrong = replace(contender, run=lambda index: contender.run(index) * 1.2)
    monkeypatch.setattr(attention, "ours", lambda *_: iter([wrong]))
    with pytest.raises(WrongResultError, match=r"PARO .* 8 @ 0.5: relative error"):
        measure_group(bench, group, 0.0)
    monkeypatch.setattr(attention, "ours", lambda *_: iter([contender]))
    off = replace(baseline, run=lambda index: baseline.run(index) * 1.2)
    monkeypatch.setattr(attention, "dense_baselines", lambda _: iter([off]))
    rows, _ = measure_group(bench, group, 0.0)
    assert [row.contender for row in rows] == ["PARO", "SDPA"]
    assert rows[0].speedup is None
    assert "relative error" in rows[1].note
    assert table.left_out(rows) == [f"left out: SDPA: {rows[1].note}"]


def test_times_of_stages_that_cannot_be_had_are_noted(bench):
    def stages(_):
        raise ValueError("no CUPTI")

    rows, _ = measure_group(replace(bench, stages=stages), Group(SMALL, (8,), (0.5,)), 0.0)
    assert rows[1].stage1_ms is None
    assert rows[1].note == "no times of stages: no CUPTI"


def test_no_group_is_begun_that_may_not_end_in_time(bench, tmp_path, monkeypatch):
    clock = itertools.count(step=10.0)
    timed = replace(bench, now=lambda: next(clock))
    monkeypatch.setattr(attention, "measure_group", lambda *_: ([Row("g", 1, 1, 64, "x")], []))
    groups = [Group(SMALL, (8,), (1.0,))] * 50
    done = attention.run(timed, groups, 200.0, Files(tmp_path))
    assert 1 < done < 10
    assert len(read_rows(tmp_path)) == done


def test_host_time_of_a_call(bench):
    row = attention.host_time(bench)
    assert row.contender == HOST_CALL
    assert row.ms > 0


class Counted:
    """A clock whose time is what the contender says."""

    def time(self, run, calls, first):
        return sum(run(index) for index in range(first, first + calls)) / calls


def test_rounds_go_on_until_spreads_settle_or_the_deadline():
    steady = Turn("steady", lambda _: 1e-3)
    noise = itertools.cycle([1.0, 2.0])
    noisy = Turn("noisy", lambda _: next(noise))
    rounds = lambda turns, now, deadline: {  # noqa: E731
        name: len(timing.seconds)
        for name, timing in time_in_turns(turns, Counted(), lambda: now, deadline).items()
    }
    assert rounds([steady], 0.0, 1.0) == {"steady": 7}
    assert rounds([steady, noisy], 0.0, 1.0) == {"steady": 21, "noisy": 21}
    assert rounds([steady, noisy], 2.0, 1.0) == {"steady": 3, "noisy": 3}


def test_kernels_are_told_apart_by_the_function_and_not_by_its_arguments():
    stage2 = "void paro::kernels::sparse_attention::sparse_attention<paro::kernels::Number>"
    mixed = "void paro::kernels::reorder_quantize::f<paro::kernels::sparse_attention::Variant>"
    times = {stage2: 30.0, mixed: 4.0, "at::native::fill": 99.0}
    assert split_by_stage(times) == (4.0, 30.0)
    with pytest.raises(ValueError, match="of no stage: paro::other"):
        split_by_stage({**times, "paro::other": 1.0})
    with pytest.raises(ValueError, match="both stages"):
        split_by_stage({stage2: 1.0})


# ---- targets and tables ----


def target_rows() -> list[Row]:
    def row(shape, kernel, density, **columns):
        sizes = (shape.tokens, shape.heads, shape.head_dim)
        return Row("g", *sizes, "PARO", kernel, 8, 64, density, ms=1.0, **columns)

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
    lines = table.attention_table(target_rows())
    assert len(lines) == 2 + 3
    assert (
        lines[4] == "| 32,760 x 40 x 128 | PARO mma.sync 8 bits | 1 (0.71x) |  |  | 1 (2.60x) |  |"
    )


# ---- programs ----


def test_sanitized_calls_are_calls_that_a_library_takes(tmp_path):
    """On the CPU backend: the same calls, with CUDA's runtime on the host's own memory."""
    require("g++")
    program = tmp_path / "calls"
    options = ["-std=c++20", "-Wall", "-Wextra", "-Wshadow", "-Werror", f"-I{STUB}"]
    options += [f"-I{ROOT / 'plugins' / 'include'}", "-x", "c++"]
    run(["g++", *options, SUITE / "sanitized_calls.cu", "-o", program, "-ldl"])
    assert run([program, library_path("cpu")]).startswith("16 calls, kernels: ")
    with pytest.raises(pytest.fail.Exception, match="ended with 2"):
        run([program, tmp_path / "no-such.so"])


@pytest.mark.long
@pytest.mark.parametrize("target", ["80", "90a", "120"])
@pytest.mark.parametrize("source", ["rates.cu", "sanitized_calls.cu"])
def test_programs_compile_without_a_remark(source, target, tmp_path):
    require("nvcc", "g++")
    command = ["nvcc", "-std=c++20", "-O3", f"-I{ROOT / 'plugins'}", "-Werror", "all-warnings"]
    command += [f"-I{ROOT / 'plugins' / 'include'}", "-Xcompiler=-Wall,-Wextra,-Wshadow,-Werror"]
    command += ["-gencode", f"arch=compute_{target},code=sm_{target}"]
    command += [str(SUITE / source), "-o", str(tmp_path / "program"), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=540)
    assert done.returncode == 0, done.stderr
    assert "ptxas" not in done.stderr, done.stderr


PIPES = {
    "WarpProductsILb1E": (8, r"IMMA\.16832\.S8\.S8"),
    "WarpProductsILb0E": (8, r"HMMA\.16816\.F32\.BF16"),
    "WarpgroupProductsILb0E": (4, r"IGMMA\.64x256x32\.S8\.S8"),
    "WarpgroupProductsILb1E": (4, r"IGMMA\.64x256x32\.U8\.S8"),
    "Exponentials": (8, r"MUFU\.EX2"),
    "MultiplyAdds": (8, r"FFMA"),
    "IntegersToFloats": (8, r"I2FP\.F32\.S32"),
    "Packing": (16, r"F2IP\.U8\.F32"),
    "SharedLoads": (8, r"LDSM\.16\.M88\.4"),
}
"""Body of rates.cu -> the instructions that its loop must hold, and how many."""


@pytest.mark.long
def test_every_rate_is_of_the_instruction_it_is_named_after(tmp_path):
    """The loop of each body, in the machine code of sm_90a: nothing dropped, nothing moved out."""
    require("nvcc", "nvdisasm")
    cubin = tmp_path / "rates.cubin"
    command = ["nvcc", "-std=c++20", "-O3", f"-I{ROOT / 'plugins'}", "-cubin", "-arch=sm_90a"]
    run([*command, SUITE / "rates.cu", "-o", cubin])
    kernels = run(["nvdisasm", "-c", cubin]).split(".section\t.text.")[1:]
    for body, (count, opcode) in PIPES.items():
        (listing,) = (text for text in kernels if body in text.splitlines()[0])
        found = [len(re.findall(rf"\b{opcode}", loop)) for loop in loops(listing)]
        assert max(found) == count, (body, found)
        assert not re.search(r"\b(LDL|STL)\b", listing), body


def loops(listing: str) -> list[str]:
    """The stretches between a label and a branch back to it."""
    labels: dict[str, int] = {}
    found = []
    lines = listing.splitlines()
    for number, line in enumerate(lines):
        if label := re.match(r"(\.L_x_\w+):", line):
            labels[label[1]] = number
        branch = re.search(r"\bBRA\b.*`\((\.L_x_\w+)\)", line)
        if branch and branch[1] in labels:
            found.append("\n".join(lines[labels[branch[1]] : number]))
    return found


def test_shell_scripts_have_no_remarks():
    require("shellcheck")
    run(["shellcheck", BENCHMARKS / "gpu_suite.sh", SUITE / "tolerate_warnings.sh"])


# ---- steps ----


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


# ---- the command ----


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


def test_nothing_written_yet_is_no_rows(tmp_path):
    assert read_rows(tmp_path) == []
    Files(tmp_path)
    assert read_rows(tmp_path) == []
    assert (tmp_path / FILE).is_file()
