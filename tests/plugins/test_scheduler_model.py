"""The pipes and the scheduler model, on loops whose time is known; the recorded forecast."""

from __future__ import annotations

from dataclasses import replace

import pytest

from plugins.kernels.sass import forecast, pipes, toolchain
from plugins.kernels.sass.forecast import Forecast
from plugins.kernels.sass.listing import parse
from plugins.kernels.sass.scheduler_model import clocks_of_loop

from .sass_listings import READY, Line, listing

STALLED = replace(READY, stall=4)


def loop_of(*lines: Line) -> str:
    return listing("kernel", ".L_x_1:", *lines, "@P0 BRA `(.L_x_1)", "EXIT")


def clocks(*lines: Line, target: str = "89", warps: int = 1, has_turns: bool = False) -> float:
    (function,) = parse(loop_of(*lines))
    (loop,) = function.loops
    return clocks_of_loop(function, loop, target, warps, has_turns=has_turns)


@pytest.mark.parametrize(
    ("opcode", "target", "pipe", "held"),
    [
        ("FFMA", "80", "fp32", 2),
        ("FADD.FTZ", "89", "fp32", 1),
        ("IMAD.MOV.U32", "89", "fp32", 2),
        ("IDP.4A.U8.U8", "120", "fp32", 1),
        ("I2FP.F32.S32", "90a", "alu", 2),
        ("F2IP.U8.F32.NTZ", "90a", "alu", 2),
        ("I2F.S8", "80", "transcendental", 8),
        ("MUFU.EX2", "80", "transcendental", 8),
        ("IMMA.16832.S8.S8", "80", "tensor", 8),
        ("IMMA.16832.U8.S8", "120", "tensor", 16),
        ("HMMA.16816.F32", "89", "tensor", 32),
        ("IGMMA.64x128x32.S8.S8", "90a", "tensor", 64),
        ("LDSM.16.M88.4", "80", "shared", 16),
        ("LDS.128", "80", "shared", 4),
        ("UIADD3", "90a", "uniform", 2),
        ("LDGDEPBAR", "80", "none", 0),
        ("BAR.SYNC.DEFER_BLOCKING", "80", "none", 0),
        ("FMNMX", "80", "alu", 2),
    ],
)
def test_an_instruction_holds_its_pipe(opcode, target, pipe, held):
    used = pipes.use(opcode, target)
    assert (used.pipe.value, used.clocks) == (pipe, held)


def test_rates_follow_from_dense_tops():
    """8-bit products of a warp are 8,192 operations, of 16 bits 4,096; four partitions."""
    for gpu, tops, tflops in (("A100", 624, 312), ("RTX 4090", 661, 165), ("RTX 5090", 838, 210)):
        row = next(each for each in forecast.GPUS if each.name == gpu)
        rates = pipes.RATES[row.target]
        a_second = 4 * row.sms * row.ghz / 1000
        assert 8192 / rates.s8 * a_second == pytest.approx(tops, rel=0.02)
        assert 4096 / rates.f16 * a_second == pytest.approx(tflops, rel=0.02)


def test_clocks_of_pipes_are_sums():
    opcodes = ["FFMA", "FFMA", "IMAD", "MUFU.EX2", "BRA"]
    assert pipes.clocks_per_pipe(opcodes, "80") == {"fp32": 6, "issue": 5, "transcendental": 8}


@pytest.mark.parametrize(
    ("target", "warps", "held"),
    [("89", 1, 101), ("89", 2, 202), ("80", 1, 200), ("80", 2, 400)],
)
def test_one_instruction_is_issued_a_clock_to_a_free_pipe(target, warps, held):
    """100 FFMA and a branch; sm_80's FP32 lanes take two clocks for each."""
    found = clocks(*["FFMA R1, R2, R3, R4"] * 100, target=target, warps=warps)
    assert found == pytest.approx(held, abs=2)


def test_stalls_are_the_least_time_of_a_warp():
    lines = [("FFMA R1, R1, R3, R4", STALLED)] * 50
    assert clocks(*lines) == pytest.approx(201, abs=1)
    assert clocks(*lines, warps=2) == pytest.approx(201, abs=2)  # one fills the other's


def test_an_instruction_waits_for_its_barrier():
    load = ("LDS R1, [R2]", replace(READY, writes=2))
    use = ("FFMA R3, R1, R1, R3", replace(READY, waits=(2,)))
    latency = pipes.use("LDS", "89").latency
    assert clocks(load, use) == pytest.approx(latency + 3, abs=1)
    other = ("FFMA R3, R1, R1, R3", replace(READY, waits=(3,)))
    assert clocks(load, other) < latency


def test_two_pipes_overlap_and_one_does_not():
    exponentials, products = ["MUFU.EX2 R1, R2"] * 16, ["IMMA.16832.S8.S8 R8, R4, R5, R8"] * 8
    assert clocks(*exponentials) == pytest.approx(128, abs=1)
    assert clocks(*products) == pytest.approx(128, abs=1)
    assert 256 <= clocks(*exponentials, *products, warps=2) < 400
    assert clocks(*products, *products, warps=2) == pytest.approx(512, abs=2)


PRODUCTS = [
    "IGMMA.64x128x32.S8.S8 R88, gdesc[UR28], RZ, !UPT",
    "IGMMA.64x128x32.S8.S8 R88, gdesc[UR20], R88, gsb0",
]
WAIT = "WARPGROUP.DEPBAR.LE gsb0, 0x0"


def test_a_wait_lasts_until_the_products_end():
    """64 clocks each, and what starting and ending them takes."""
    alone = clocks(*PRODUCTS, WAIT, target="90a")
    assert 128 < alone < 180
    arithmetic = ["FFMA R1, R2, R3, R4"] * 100
    assert clocks(*PRODUCTS, *arithmetic, WAIT, target="90a") < alone + 20
    assert clocks(*PRODUCTS, WAIT, *arithmetic, target="90a") > alone + 90
    assert clocks(*PRODUCTS, "WARPGROUP.DEPBAR.LE gsb0, 0x1", target="90a") < alone


def test_warpgroups_take_turns():
    """The second may not issue its products before the first has passed the turn."""
    before, behind = ["BAR.SYNC R1, 0x100"], ["BAR.ARV R2, 0x100"]
    arithmetic = [("FFMA R1, R1, R3, R4", STALLED)] * 75
    overlapped = clocks(*before, *PRODUCTS, *behind, *arithmetic, WAIT,
                        target="90a", warps=2, has_turns=True)  # fmt: skip
    serial = clocks(*before, *PRODUCTS, *arithmetic, WAIT, *behind,
                    target="90a", warps=2, has_turns=True)  # fmt: skip
    assert overlapped < 2 * 300 < serial


def test_a_branch_over_arithmetic_alone_is_taken():
    rare = ["@!P0 BRA `(.L_x_2)", *["FMUL R1, R1, R2"] * 100, ".L_x_2:"]
    often = ["@!P0 BRA `(.L_x_2)", *["FMUL R1, R1, R2"] * 100, "LDS R1, [R2]", ".L_x_2:"]
    assert clocks("FFMA R1, R2, R3, R4", *rare) < 20
    assert clocks("FFMA R1, R2, R3, R4", *often) > 100


def test_differences_of_forecasts():
    row = Forecast("A100", "sparse_attention 64x128x64 s8-s8", 2, 2500, 255)
    assert forecast.differences([row], [replace(row, tops=259)]) == []
    assert len(forecast.differences([row], [replace(row, tops=270)])) == 1
    assert len(forecast.differences([row], [])) == 1
    assert len(forecast.differences([], [row])) == 1


def test_the_record_covers_the_main_kernels_and_keeps_its_sums():
    rows = forecast.load()
    # Of 8 bits, of 4 and of smoothed 4; wgmma has 8 alone.
    kinds = {gpu.name: 1 if "wgmma" in gpu.name else 3 for gpu in forecast.GPUS}
    assert [row.gpu for row in rows] == [name for name, n in kinds.items() for _ in range(4 * n)]
    for row in rows:
        gpu = next(each for each in forecast.GPUS if each.name == row.gpu)
        head_dim, block_q, step_keys = map(int, row.kernel.split()[1].split("x"))
        assert block_q == 128
        # By mma.sync a warp has 32 rows, or 16 with steps of 128; by wgmma 16 rows of 128 keys.
        scores = 16 * 128 if "wgmma" in row.kernel else (32 * 64 if step_keys == 64 else 16 * 128)
        tops = gpu.tops(head_dim, row.warps, scores, row.clocks)
        assert row.tops == pytest.approx(tops, rel=0.01)


@pytest.mark.long
def test_the_forecast_is_what_the_model_gives():
    found = forecast.all_forecasts(toolchain.find_toolchain())
    assert forecast.differences(forecast.load(), found) == [], forecast.UPDATE
