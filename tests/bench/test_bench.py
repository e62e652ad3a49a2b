"""The timer and the attention suite: turns, verification, honest densities."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace

import pytest
import torch
from paro_trt.bench.suite import measure

from paro_trt.bench import suite as attention_suite
from paro_trt.bench.contenders import BASELINE, Workload, exact_density_mask, make_entries
from paro_trt.bench.plot import plot_speedup
from paro_trt.bench.timing import Contender, Timing, processor_speedup, speedup, time_interleaved
from paro_trt.errors import ArgumentError, ParoError

SMALL = Workload(tokens=512, head_dim=64, heads=2, threads=1, densities=(1.0, 0.25))


def test_contenders_take_turns_and_start_in_turn():
    calls: list[str] = []
    contenders = [Contender(name, lambda name=name: calls.append(name)) for name in "abc"]
    timings = time_interleaved(contenders, rounds=2, warmup=1)
    assert "".join(calls) == "abc" + "abc" + "bca"
    assert [len(timing.seconds) for timing in timings.values()] == [2, 2, 2]
    assert [len(timing.processor_seconds) for timing in timings.values()] == [2, 2, 2]


def test_no_rounds_and_equal_names_are_refused():
    one = Contender("a", int)
    with pytest.raises(ArgumentError, match="rounds"):
        time_interleaved([one], rounds=0)
    with pytest.raises(ArgumentError, match="unique names"):
        time_interleaved([one, one], rounds=1)


def test_speedup_pairs_the_rounds():
    slow, fast = Timing("slow", (4.0, 40.0, 8.0)), Timing("fast", (1.0, 10.0, 1.0))
    assert speedup(slow, fast) == 4.0
    assert Timing("x", (1.0, 2.0, 3.0)).median == 2.0


def test_processor_time_leaves_waiting_out():
    """As it leaves out what other programs take."""

    def compute() -> None:
        end = time.process_time() + 0.02
        while time.process_time() < end:
            pass

    def compute_and_wait() -> None:
        compute()
        time.sleep(0.1)

    contenders = [Contender("waits", compute_and_wait), Contender("computes", compute)]
    timings = time_interleaved(contenders, rounds=3)
    assert min(timings["waits"].seconds) > 0.12
    assert processor_speedup(timings["waits"], timings["computes"]) == pytest.approx(1.0, abs=0.3)


def test_stage1_is_what_two_calls_differ_by():
    entry = next(
        e for e in make_entries(SMALL, flex=False, onnxruntime=False) if e.name == "PARO CPU int8"
    )
    timings = {
        "PARO CPU int8, nothing listed": Timing("a", (3.0, 9.0, 4.0)),
        "PARO CPU int8, no tokens": Timing("b", (1.0, 2.0, 3.0)),
    }
    assert attention_suite._stage1_seconds("PARO CPU int8", timings) == 2.0
    assert attention_suite._stage1_seconds(BASELINE, timings) is None
    assert not entry.stage1.nothing_listed().any()
    assert not entry.stage1.no_tokens().any()


@pytest.mark.parametrize("density", [1.0, 0.5, 0.25, 0.1])
def test_mask_has_the_density_and_the_diagonal(density, fresh_seed):
    mask = exact_density_mask(2, 8, 16, density, fresh_seed)
    assert (mask.sum(-1) == max(1, round(density * 16))).all()
    assert mask[:, :, range(8), range(0, 16, 2)].all()


def test_measurements_cover_all_contenders():
    rows = measure(SMALL, rounds=2, flex=False)
    names = {row.contender for row in rows}
    assert names == {
        BASELINE, "torch SDPA bf16", "ONNX Runtime MHA f32",
        "PARO CPU f32", "PARO CPU bf16", "PARO CPU int8",
    }  # fmt: skip
    assert rows[0].contender == BASELINE
    assert rows[0].speedup == 1.0
    assert {row.density for row in rows if row.contender == "PARO CPU int8"} == {1.0, 0.25}
    assert all(row.milliseconds > 0 and row.peak_share > 0 for row in rows)
    shares = [row.stage1_share for row in rows if row.contender.startswith("PARO")]
    assert all(share is not None and share > 0 for share in shares)
    assert rows[0].stage1_share is None


@pytest.mark.parametrize(("most_rounds", "expected"), [(None, 4), (9, 9), (3, 4)])
def test_rounds_go_on_while_spreads_are_wide(most_rounds, expected):
    durations = itertools.cycle([0.001, 0.01])
    unsteady = Contender("unsteady", lambda: time.sleep(next(durations)))
    timing = time_interleaved([unsteady], rounds=4, most_rounds=most_rounds)["unsteady"]
    assert len(timing.seconds) == expected
    assert not timing.steady


def test_steady_timings_need_no_more_rounds():
    calls = itertools.count()
    steady = Contender("steady", lambda: (next(calls), time.sleep(0.05)))
    timing = time_interleaved([steady], rounds=4, most_rounds=40)["steady"]
    assert timing.steady
    assert len(timing.seconds) < 40


@pytest.mark.parametrize("contender", ["PARO CPU f32", "PARO CPU int8", BASELINE])
def test_a_wrong_contender_stops_the_run(contender, monkeypatch):
    entries = attention_suite.make_entries

    def with_wrong_output(*args: object, **kwargs: object) -> list:
        return [
            e if e.name != contender else replace(e, run=lambda e=e: e.run() * 1.1)
            for e in entries(*args, **kwargs)
        ]

    monkeypatch.setattr(attention_suite, "make_entries", with_wrong_output)
    before = torch.get_num_threads()
    with pytest.raises(ParoError, match=contender):
        measure(SMALL, rounds=1, flex=False, onnxruntime=False)
    assert torch.get_num_threads() == before


@pytest.mark.long
def test_flex_attention_joins():
    rows = measure(SMALL, rounds=1, flex=True, onnxruntime=False)
    assert "FlexAttention f32" in {row.contender for row in rows}


def test_plot_is_a_picture(tmp_path):
    rows = measure(SMALL, rounds=1, flex=False, onnxruntime=False)
    plot_speedup(rows, tmp_path / "speedup.png")
    assert (tmp_path / "speedup.png").read_bytes().startswith(b"\x89PNG")
