"""The attention benchmark of the GPU suite, on a CPU: its plan, its checks, its rows and files."""

from __future__ import annotations

import csv
import itertools
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "samples" / "benchmarks"))

from gpu import attention, table
from gpu.attention import Bench, Peaks, WrongResultError, measure_group
from gpu.contenders import dense_baselines, ours
from gpu.problem import make_problem
from gpu.results import FILE, HOST_CALL, Files, Row, read_rows
from gpu.shapes import COGVIDEOX, DENSITIES, WAN_480P, Group, Shape, plan
from gpu.timing import HostClock, Turn, split_by_stage, time_in_turns

from paro_trt.native import library_path, load_library

SMALL = Shape((2, 8, 20), 30, 2, 64, "none")
CPU = torch.device("cpu")


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


def test_nothing_written_yet_is_no_rows(tmp_path):
    assert read_rows(tmp_path) == []
    Files(tmp_path)
    assert read_rows(tmp_path) == []
    assert (tmp_path / FILE).is_file()
