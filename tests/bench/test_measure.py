"""The attention benchmark of a group: verified before it is timed, with honest densities."""

from __future__ import annotations

import csv
from dataclasses import replace

import pytest
import torch

from paro_trt.bench import measure
from paro_trt.bench.baselines import dense_baselines
from paro_trt.bench.case import OpCase
from paro_trt.bench.contenders import SMOOTHED_BITS, Contender, ours
from paro_trt.bench.measure import (
    CPU_PRECISIONS,
    Bench,
    Group,
    Peaks,
    WrongResultError,
    cpu_bench,
    measure_group,
)
from paro_trt.bench.plot import plot_speedup
from paro_trt.bench.problem import Problem, make_problem
from paro_trt.bench.results import FILE, Files, read_rows
from paro_trt.bench.stages import split_by_stage
from paro_trt.bench.table import by_density, left_out
from paro_trt.bench.timing import Rounds
from paro_trt.errors import ArgumentError
from paro_trt.op.spec import AttentionConfig

CPU = torch.device("cpu")
SMALL = OpCase("small", 350, dtype=torch.bfloat16)
BYTES_A_SET = 4 * SMALL.tokens * SMALL.heads * SMALL.head_dim * 2
FEW = Rounds(2)
EIGHT = ((torch.bfloat16, 8),)


def orders(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randperm(SMALL.tokens, generator=generator)
    return torch.stack([torch.arange(SMALL.tokens), mixed]).int()


def small_problem(
    seed: int = 0, block_k: int = 64, cache_bytes: int = 0, pooled: bool = False
) -> Problem:
    case = replace(SMALL, config=AttentionConfig(128, block_k, pool_dropped=pooled))
    return make_problem(
        case, CPU, token_order=orders(seed), cache_bytes=cache_bytes, seed=seed
    )  # fmt: skip


@pytest.fixture(scope="module")
def bench() -> Bench:
    return replace(cpu_bench(1), peaks=lambda: Peaks({16: 1e12, 8: 2e12}, 1e10))


def test_a_contender_that_another_would_hide_is_refused(bench):
    group = Group(SMALL, EIGHT, (0.5, 0.25, 0.5), orders)
    with pytest.raises(ArgumentError, match=r"contenders: .*got two named .*int8 @ 0\.5"):
        measure_group(bench, group, FEW)


@pytest.mark.parametrize("density", [1.0, 0.5, 0.25, 0.1])
def test_mask_has_the_density_and_the_diagonal(density, fresh_seed):
    problem = make_problem(OpCase("m", 1024), CPU, seed=fresh_seed)
    mask = problem.mask(density)
    kept = mask.sum(-1)
    assert (kept >= 1).all()
    assert (kept == 16).all() == (density == 1.0)
    assert float(kept.float().mean()) / 16 == pytest.approx(density, rel=0.2)
    assert mask[:, range(8), range(0, 16, 2)].all()
    assert problem.reached_density(density) == pytest.approx(float(mask.float().mean()))


def test_rows_and_heads_of_a_mask_are_uneven(fresh_seed):
    """Equal rows would hide what the order of thread blocks does to balance and to L2."""
    problem = make_problem(OpCase("m", 16384, heads=4, kv_heads=4), CPU, seed=fresh_seed)
    kept = problem.mask(0.25).sum(-1).double()
    assert 0.2 < float(kept.std() / kept.mean()) < 0.8
    assert kept.mean(dim=1).unique().numel() == 4


def test_no_density_is_refused():
    with pytest.raises(ArgumentError, match="density"):
        small_problem().mask(0.0)


def test_problem_rotates_past_the_cache():
    assert len(small_problem().sets) == 1
    assert len(small_problem(cache_bytes=BYTES_A_SET).sets) == 4


@pytest.mark.parametrize("bits", [16, 8, SMOOTHED_BITS])
@pytest.mark.parametrize("block_k", [64, 128])
@pytest.mark.parametrize("density", [1.0, 0.5])
def test_ours_is_what_the_check_expects(bench, bits, block_k, density, fresh_seed):
    """Reordered and masked."""
    problem = small_problem(fresh_seed, block_k)
    (contender,) = ours(problem, bench.library, bits, density, 1)
    output = contender.run(0)
    assert contender.check(output) <= contender.largest_error
    assert contender.check(output.roll(1, dims=1)) > contender.largest_error
    assert not contender.check(torch.full_like(output, float("nan"))) <= contender.largest_error
    if density < 1:
        (dense,) = ours(problem, bench.library, bits, 1.0, 1)
        assert contender.check(dense.run(0)) > contender.largest_error


@pytest.mark.parametrize("bits", [16, 8, SMOOTHED_BITS])
def test_dropped_blocks_are_pooled_where_the_case_says_so(bench, bits, fresh_seed):
    pooled = small_problem(fresh_seed, pooled=True)
    (contender,) = ours(pooled, bench.library, bits, 0.4, 1)
    assert contender.check(contender.run(0)) <= contender.largest_error
    (dropping,) = ours(small_problem(fresh_seed), bench.library, bits, 0.4, 1)
    assert contender.check(dropping.run(0)) > contender.largest_error


@pytest.mark.parametrize("bits", [16, 8, SMOOTHED_BITS])
@pytest.mark.parametrize("block_q", [64, 128])
def test_fine_summaries_and_the_correction_are_checked_too(bench, bits, block_q, fresh_seed):
    pooled = AttentionConfig(block_q, 64, pool_dropped=True)
    whole = replace(pooled, fine_summaries=True, mean_correction=True)

    def contender(config: AttentionConfig) -> Contender:
        case = replace(SMALL, dtype=torch.float32, config=config)
        problem = make_problem(case, CPU, token_order=orders(fresh_seed), seed=fresh_seed)
        (found,) = ours(problem, bench.library, bits, 0.2, 1)
        return found

    checked = contender(whole)
    assert checked.check(checked.run(0)) <= checked.largest_error
    if bits < 16:
        return  # its error on noise is as large as what either feature changes
    for config in (replace(whole, fine_summaries=False), replace(whole, mean_correction=False)):
        assert checked.check(contender(config).run(0)) > checked.largest_error


def test_calls_take_the_sets_of_inputs_in_turn(bench, fresh_seed):
    problem = small_problem(fresh_seed, cache_bytes=BYTES_A_SET // 2)
    assert len(problem.sets) == 2
    for contender in (*ours(problem, bench.library, 8, 0.5, 1), *dense_baselines(problem)):
        errors = [contender.check(contender.run(index)) for index in range(3)]
        assert errors[1] > contender.largest_error
        assert errors[0] == errors[2] <= contender.largest_error


def test_the_two_calls_of_stage1_write_zeros(bench):
    (contender,) = ours(small_problem(), bench.library, 8, 0.5, 1)
    assert not contender.stage1.nothing_listed(0).any()
    assert not contender.stage1.no_tokens(0).any()


def cpu_group(flex: bool = False) -> Group:
    return Group(OpCase("cpu", 512), CPU_PRECISIONS, (1.0, 0.25), flex=flex)


def test_rows_of_a_cpu_cover_all_contenders(tmp_path):
    rows, timings = measure_group(cpu_bench(1), cpu_group(), FEW)
    names = {f"{row.contender} {row.precision}" for row in rows}
    assert names == {
        "torch SDPA f32", "torch SDPA bf16", "ONNX Runtime MHA f32",
        "PARO f32", "PARO bf16", "PARO int8", "PARO int4",
    }  # fmt: skip
    assert rows[0].speedup == rows[0].processor_speedup == 1.0
    assert {(row.baseline, row.threads) for row in rows} == {("torch SDPA", 1)}
    reached = {row.density: row.reached_density for row in rows if row.precision == "int8"}
    assert reached == {1.0: 1.0, 0.25: pytest.approx(0.25, rel=0.25)}
    assert all(row.ms > 0 and row.peak_share > 0 for row in rows)
    spent = {timing.name: timing for timing in timings}
    for row in rows:
        if row.contender != "PARO":
            assert row.stage1_share is None
            continue
        name = f"PARO {row.kernel} {row.precision}"
        pairs = zip(
            spent[f"{name}, nothing listed"].seconds, spent[f"{name}, no tokens"].seconds,
            strict=True,
        )  # fmt: skip
        differences = [more - less for more, less in pairs]
        assert row.stage1_ms == pytest.approx(1e3 * sum(differences) / 2)
    plot_speedup(rows, tmp_path / "speedup.png")
    assert (tmp_path / "speedup.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.long
def test_flex_attention_joins():
    rows, _ = measure_group(cpu_bench(1), cpu_group(flex=True), FEW)
    assert any(row.contender == "FlexAttention" and row.ms for row in rows)


def test_group_becomes_rows_and_files(bench, tmp_path):
    group = Group(SMALL, EIGHT, (1.0, 0.5), orders)
    staged = replace(bench, stages=lambda run: (2e-3, 6e-3) if run(0) is not None else None)
    rows, timings = measure_group(staged, group, FEW)
    assert [(row.contender, row.precision, row.density) for row in rows] == [
        ("torch SDPA", "bf16", 1.0), ("PARO", "int8", 1.0), ("PARO", "int8", 0.5),
    ]  # fmt: skip
    sdpa, dense, sparse = rows
    assert (sdpa.speedup, sdpa.baseline) == (1.0, "torch SDPA")
    key_blocks = -(-SMALL.tokens // 64)
    kept = max(1, round(0.5 * key_blocks)) / key_blocks
    operations = 4 * SMALL.tokens**2 * 64 * 2
    assert dense.tops == pytest.approx(operations / dense.ms / 1e9)
    assert sparse.tops == pytest.approx(kept * operations / sparse.ms / 1e9)
    assert sparse.peak_share == pytest.approx(sparse.tops / 2)
    assert sparse.stage1_share == pytest.approx(0.25)
    least = 2 * SMALL.tokens * 2 * 64 * 3 + 2 * 4 * 2 * key_blocks
    assert sparse.stage1_copy_share == pytest.approx(least / 2e-3 / 1e10)
    files = Files(tmp_path)
    assert read_rows(tmp_path) == []
    files.add(rows, timings)
    again = read_rows(tmp_path)
    assert again[2].ms == pytest.approx(rows[2].ms, rel=1e-5)
    assert again[0].stage1_ms is None
    assert (tmp_path / FILE).is_file()
    with (tmp_path / "rounds.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == sum(len(timing.seconds) for timing in timings)
    assert len(by_density(rows, (1.0, 0.5))) == 2 + 2


def off(contender):
    return replace(contender, run=lambda index: contender.run(index) * 1.2)


@pytest.mark.parametrize("name", ["PARO", "torch SDPA"])
def test_a_wrong_contender_or_only_baseline_stops_the_run(bench, name, monkeypatch):
    real = measure.contenders

    def with_wrong_output(*arguments):
        return [off(c) if c.name == name else c for c in real(*arguments)]

    monkeypatch.setattr(measure, "contenders", with_wrong_output)
    before = torch.get_num_threads()
    with pytest.raises(WrongResultError, match=name):
        measure_group(bench, Group(SMALL, EIGHT, (0.5,), orders), FEW)
    assert torch.get_num_threads() == before


def test_a_wrong_baseline_is_left_out_where_another_remains(bench, monkeypatch):
    real = measure.contenders

    def with_another(*arguments):
        first, *rest = real(*arguments)
        return [first, replace(off(first), name="wrong"), *rest]

    monkeypatch.setattr(measure, "contenders", with_another)
    rows, _ = measure_group(bench, Group(SMALL, EIGHT, (0.5,), orders), FEW)
    assert [row.contender for row in rows] == ["torch SDPA", "PARO", "wrong"]
    assert rows[1].baseline == "torch SDPA"
    assert rows[2].ms is None
    assert "relative L2 error" in rows[2].note
    assert left_out(rows) == [f"left out: wrong: {rows[2].note}"]


def test_stage_times_that_the_profiler_cannot_give_are_noted(bench):
    def stages(_):
        raise ValueError("no CUPTI")

    rows, _ = measure_group(replace(bench, stages=stages), Group(SMALL, EIGHT, (0.5,)), FEW)
    assert rows[1].stage1_ms is None
    assert rows[1].note == "no times of stages: no CUPTI"


def test_kernels_are_told_apart_by_the_function_and_not_by_its_arguments():
    stage2 = "void paro::kernels::sparse_attention::sparse_attention<paro::kernels::Number>"
    mixed = "void paro::kernels::reorder_quantize::f<paro::kernels::sparse_attention::Variant>"
    times = {stage2: 30.0, mixed: 4.0, "at::native::fill": 99.0}
    assert split_by_stage(times) == (4.0, 30.0)
    between = ("summaries::make_fine_groups", "routing::select_blocks", "smoothing::key_biases")
    times |= {f"void paro::kernels::{name}(Params)": 1.0 for name in between}
    assert split_by_stage(times) == (4.0, 33.0)
    with pytest.raises(ValueError, match="of no stage: paro::other"):
        split_by_stage({**times, "paro::other": 1.0})
    with pytest.raises(ValueError, match="both stages"):
        split_by_stage({stage2: 1.0})
