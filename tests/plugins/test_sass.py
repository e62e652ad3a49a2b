"""The machine code of the kernels: the checker on listings with a known fault, then on nvcc's."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from plugins.kernels.sass import budget, resources, stage1, toolchain
from plugins.kernels.sass.budget import Budget
from plugins.kernels.sass.kernels import Measured, kernels_of
from plugins.kernels.sass.listing import parse
from tests.native_builds import PLUGINS, require

from . import sass_listings
from .kernel_library import emulated_kernels

SASS = PLUGINS / "kernels" / "sass"

MANGLED = (
    "_ZN4paro7kernels16sparse_attention4sm8016sparse_attentionINS2_7VariantILi64ELi128ELi64E"
    "LNS0_6NumberE3ELS5_3ELNS0_7FourBitE0EEEEEvNS0_15AttentionParamsE"
)
NAME = "sparse_attention 64x128x64 s8-s8"


def loop(label: str, *extra: str) -> list[str]:
    """64 scores a lane at head_dim 64: 32 products for Q K^T, 32 for P V."""
    body = ["LDGSTS.E.128 [R1], [R2]", "LDSM.16.M88.4 R4, [R5]", *extra]
    body += ["IMMA.16832.S8.S8 R8, R4, R5, R8"] * 32 + ["IMMA.16832.U8.S8 R8, R4, R5, R8"] * 32
    return [f".L_x_{label}:", *body, f"@!P0 BRA `(.L_x_{label})"]


def listing(*lines: str) -> str:
    """Of the kernel `NAME`."""
    return sass_listings.listing(MANGLED, *lines)


HOT = loop("1", *["FFMA R1, R2, R3, R4"] * 61)
COLD = loop("2", *["FFMA R1, R2, R3, R4"] * 61, "MUFU.LG2 R1, R2")
PROLOGUE = ["S2R R0, SR_TID.X", "@P0 EXIT"]


def measured(*lines: str) -> Measured:
    ((kernel, function),) = kernels_of(parse(listing(*lines)))
    assert kernel.name == NAME
    return kernel.measure(function, 200, "89")


@pytest.fixture(autouse=True, scope="module")
def _demangler():
    require("c++filt")


def test_the_hot_loop_is_counted():
    found = measured(*PROLOGUE, *HOT, *COLD)
    assert (found.registers, found.local, found.per_score) == (200, 0, 2.0)
    # 61 FFMA, 64 products of 16 clocks, two copies of 16, and a branch; a stall of one clock each.
    wanted = {"fp32": 61, "issue": 128, "shared": 32, "tensor": 1024}
    assert (found.clocks, found.stalls, found.between) == (wanted, 128, 0)


def test_spills_are_counted_wherever_they_are():
    assert measured("STL [R1], R2", *HOT, *COLD, "@P0 LDL.64 R1, [R2]").local == 2


FINE = MANGLED.replace("16sparse_attentionINS", "21sparse_attention_fineINS")
SMOOTHED = (
    "_ZN4paro7kernels16sparse_attention4sm8025sparse_attention_smoothedINS2_13OneQueryBloc"
    "kINS2_7VariantILi64ELi128ELi64ELNS0_6NumberE4ELS6_3ELNS0_7FourBitE0EEEEEEEvNS0_15AttentionParamsE"
)


def test_the_loop_of_fine_summaries_is_not_the_hot_one():
    """It is the shortest of three."""
    lines = [*COLD, *HOT, *loop("3", *["FFMA R1, R2, R3, R4"] * 9)]
    ((kernel, function),) = kernels_of(parse(listing(*lines).replace(MANGLED, FINE)))
    assert kernel.name == NAME.replace("attention", "attention_fine", 1)
    assert kernel.measure(function, 200, "89").per_score == 2.0
    ((kernel, function),) = kernels_of(parse(listing(*HOT, *COLD).replace(MANGLED, FINE)))
    with pytest.raises(ValueError, match="expected one of 3, got 2"):
        kernel.measure(function, 200, "89")


def test_a_smoothed_step_has_an_eighth_of_what_runs_once_in_eight():
    """And none of what a branch over arithmetic passes."""
    products = ["IMMA.16864.S4.S4 R8, R4, R5, R8"] * 16 + ["IMMA.16832.U8.S8 R8, R4, R5, R8"] * 32
    slow = ["@P0 BRA `(.L_x_9)", *["FADD R1, R2, R3"] * 30, ".L_x_9:"]
    step = [".L_x_1:", *products, *slow, *["FFMA R1, R2, R3, R4"] * 14, "@!P0 BRA `(.L_x_1)"]
    once = [".L_x_0:", *["MOV R1, R2"] * 15]
    rounds = [*once, *step, "@!P0 BRA `(.L_x_0)"]
    ((kernel, function),) = kernels_of(parse(listing(*rounds).replace(MANGLED, SMOOTHED)))
    assert kernel.name == "sparse_attention_smoothed 64x128x64 s4-s8 native"
    assert kernel.measure(function, 255, "80").per_score == pytest.approx(66 / 64, abs=5e-4)
    ((kernel, function),) = kernels_of(parse(listing(*step).replace(MANGLED, SMOOTHED)))
    with pytest.raises(ValueError, match="expected one around it"):
        kernel.measure(function, 255, "80")


@pytest.mark.parametrize(
    "lines",
    [
        COLD,
        [*HOT, *COLD, *loop("3")],
        ["EXIT"],
        [*loop("1", "IMMA.16832.S8.S8 R8, R4, R5, R8"), *COLD],
    ],
)
def test_a_loop_that_is_not_understood_is_refused(lines):
    with pytest.raises(ValueError, match="hot loop: expected"):
        measured(*lines)


def test_an_empty_listing_is_refused():
    with pytest.raises(ValueError, match="expected functions with instructions"):
        parse("no section")


@pytest.mark.parametrize("opcode", ["IMMA.16832.S8.S8", "IMMA.16832.U8.S8", "LDSM", "LDGSTS"])
def test_a_wanted_instruction_that_is_missing_is_named(opcode):
    text = listing(*(line for line in [*HOT, *COLD] if not line.startswith(opcode)))
    ((kernel, function),) = kernels_of(parse(text))
    missing = [wanted for wanted in kernel.wanted_opcodes() if not function.count(wanted)]
    assert len(missing) == 1
    assert missing[0].replace("\\", "").startswith(opcode)


RECORDED = Budget(
    "13.0",
    {"sm_80 spilling*": "faster"},
    {"80": {NAME: Measured(200, 0, 10.0, 0.0, {"fp32": 1000, "tensor": 512}, 2000, 65)}},
)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({}, 0),
        ({"per_score": 10.29, "registers": 205}, 0),
        ({"per_score": 10.31}, 1),
        ({"registers": 207}, 1),
        ({"local": 2}, 2),  # without a reason, and more than recorded
        ({"per_score": 8.0}, 0),
        ({"clocks": {"fp32": 1030, "tensor": 512}}, 0),
        ({"clocks": {"fp32": 1031, "tensor": 512}}, 1),
        ({"clocks": {"fp32": 1000, "tensor": 512, "alu": 2}}, 1),  # a pipe that was not used
        ({"stalls": 2061}, 1),
        ({"between": 67}, 1),
    ],
)
def test_regressions_of_more_than_3_percent_are_found(change, found):
    now = {"80": {NAME: replace(RECORDED.kernels["80"][NAME], **change)}}
    assert len(budget.regressions(RECORDED, "13.0", now)) == found


def test_costs_that_are_not_recorded_have_nothing_to_compare_with():
    recorded = replace(RECORDED, kernels={"80": {NAME: Measured(200, 0, 10.0)}})
    now = RECORDED.kernels["80"][NAME]
    assert budget.regressions(recorded, "13.0", {"80": {NAME: now}}) == []
    worse = {"80": {NAME: replace(now, per_score=11.0)}}
    assert len(budget.regressions(recorded, "13.0", worse)) == 1


def test_the_main_kernels_have_all_costs_recorded():
    for target, entries in budget.load().kernels.items():
        for name, entry in entries.items():
            if name.endswith("s8-s8") or "wgmma" in name:
                assert {"fp32", "issue", "tensor", "transcendental"} <= set(entry.clocks), name
                assert entry.stalls > 0
                assert (entry.between > 0) == ("wgmma" in name), (target, name)


def test_a_part_of_the_record_is_replaced():
    new = Measured(100, 0, 5.0)
    merged = budget.merged(RECORDED, "13.0", {"80": {"other": new}, "89": {NAME: new}})
    assert merged.kernels == {"80": {**RECORDED.kernels["80"], "other": new}, "89": {NAME: new}}
    assert "other" not in RECORDED.kernels["80"]


def test_improvements_ask_for_an_update():
    better = replace(
        RECORDED.kernels["80"][NAME], per_score=9.0, clocks={"fp32": 900, "tensor": 512}
    )
    lines = budget.improvements(RECORDED, "13.0", {"80": {NAME: better}})
    assert [line.split(": ", 1)[1] for line in lines] == [
        "per_score was 10.0, is 9.0",
        "clocks of fp32 was 1000, is 900",
    ]


def test_spills_need_a_reason_with_any_nvcc():
    now = {"80": {NAME: Measured(250, 4, 20.0), "spilling": Measured(255, 4, 1.0)}}
    found = budget.regressions(RECORDED, "13.5", now)
    assert len(found) == 2
    assert "none has a reason" in found[0]
    assert "spilling: not recorded" in found[1]


def test_the_file_covers_every_target_and_has_no_stale_reason(tmp_path, monkeypatch):
    recorded = budget.load()
    assert list(recorded.kernels) == toolchain.targets()
    wgmma = {
        target: {name for name in entries if name.startswith("sparse_attention_wgmma ")}
        for target, entries in recorded.kernels.items()
    }
    assert len(wgmma.pop("90a")) == 8
    assert not any(wgmma.values())
    counts = {sum("wgmma" not in name for name in e) for e in recorded.kernels.values()}
    assert len(counts) == 1
    for pattern, reason in recorded.spills.items():
        only = replace(recorded, spills={pattern: reason})
        spilling = [
            name
            for target, entries in recorded.kernels.items()
            for name, entry in entries.items()
            if entry.local and only.reason_to_spill(target, name)
        ]
        assert spilling, f"{pattern}: nothing spills there any more"
        assert len(reason) > 20
    monkeypatch.setattr(budget, "FILE", tmp_path / "copy.json")
    budget.save(recorded)
    assert budget.load() == recorded
    original = (SASS / "budget.json").read_text()
    assert json.loads((tmp_path / "copy.json").read_text()) == json.loads(original)


def gate(*arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        toolchain.find_toolchain()
    except toolchain.ToolError as error:
        pytest.skip(str(error))
    require("cmake")
    command = [sys.executable, "-m", "plugins.kernels.sass.check", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=1500, cwd=PLUGINS.parent)


def test_a_wgmma_kernel_is_counted_by_its_shapes():
    """128 keys of 64 channels: 64 scores a lane."""
    name = "_ZN4paro7kernels16sparse_attention4sm9022sparse_attention_wgmmaINS2_7Variant"
    name += "ILi64ELi128ELi64EEEEEvNS0_15AttentionParamsE"
    products = ["IGMMA.64x128x32.S8.S8 R8, gdesc[UR4]"] * 2 + ["IGMMA.64x64x32.U8.S8 R8, R4"] * 4
    hot = [".L_x_1:", *products, *["FFMA R1, R2, R3, R4"] * 57, "@!P0 BRA `(.L_x_1)"]
    cold = [".L_x_2:", *products, *["FFMA R1, R2, R3, R4"] * 99, "@!P0 BRA `(.L_x_2)"]
    text = listing(*hot, *cold).replace(MANGLED, name)
    ((kernel, function),) = kernels_of(parse(text))
    assert kernel.name == "sparse_attention_wgmma 64x128x64"
    assert kernel.measure(function, 168, "90a").per_score == 1.0
    missing = [wanted for wanted in kernel.wanted_opcodes() if not function.count(wanted)]
    assert [line.split("\\")[0] for line in missing] == ["UBLKCP", "SYNCS", "USETMAXREG"]


STAGE1 = (
    "_ZN4paro7kernels16reorder_quantize14reorder_tokensILNS0_6NumberE0ELi64ELi64ELb1EEEvNS0_"
    "13ReorderParamsE"
)
CASES = {
    "16 bits": [],
    "key s8": ["F2IP.S8.F32.NTZ R1, R2, R3, RZ", "STG.E.64 [R1], R2"],
    "key s4": ["F2IP.S8.F32.NTZ R1, R2, R3, RZ", "STG.E [R1], R2"],
    "value s8": ["F2IP.S8.F32.NTZ R1, R2, R3, RZ", "LDSM.16.MT88.4 R1, [R2]", "STG.E.128 [R1], R2"],
    "value s4": ["F2IP.S8.F32.NTZ R1, R2, R3, RZ", "LDSM.16.MT88.4 R1, [R2]", "STG.E.64 [R1], R2"],
}


def stage1_listing(*cases: str) -> str:
    """Loops of 299 instructions after 80 others, for 64 x 64 elements by four warps."""
    lines = []
    for number, case in enumerate(cases):
        marks = CASES[case]
        body = [*marks, *["FFMA R1, R2, R3, R4"] * (298 - len(marks))]
        lines += ["S2R R0, SR_TID.X"] * 80
        lines += [f".L_x_{number}:", *body, f"@!P0 BRA `(.L_x_{number})"]
    return listing(*lines).replace(MANGLED, STAGE1)


def test_stage_1_is_counted_for_each_byte():
    """A run has eight blocks: 299 + 80 / 8 instructions a block."""
    ((kernel, function),) = kernels_of(parse(stage1_listing(*CASES, "16 bits")))
    assert kernel.name == "reorder_tokens 64x64 f16 pooled"
    found = stage1.instructions_per_byte(function, *kernel.sizes)
    bits = {"16 bits": 16, "key s8": 8, "key s4": 4, "value s8": 8, "value s4": 4}
    assert found == {case: pytest.approx(309 * 4 / (512 * (16 + bits[case]))) for case in CASES}
    assert kernel.measure(function, 80, "90a").per_byte == pytest.approx(309 * 4 / 10240, abs=5e-4)


@pytest.mark.parametrize("cases", [list(CASES), [*CASES, "key s8"][1:]])
def test_a_loop_of_stage_1_that_is_missing_is_refused(cases):
    ((kernel, function),) = kernels_of(parse(stage1_listing(*cases)))
    with pytest.raises(ValueError, match="loops: expected six"):
        kernel.measure(function, 80, "90a")


def test_stage_1_may_not_execute_more_than_memory_hides():
    most = stage1.MOST_PER_BYTE
    recorded = Budget("13.0", {}, {"90a": {"s": Measured(80, 0, per_byte=most + 0.01)}})
    now = {"90a": {"s": Measured(80, 0, per_byte=most + 0.01)}}
    (line,) = budget.regressions(recorded, "13.0", now)
    assert "leave memory the limit" in line
    now = {"90a": {"s": Measured(80, 0, per_byte=most - 0.01)}}
    assert not budget.regressions(recorded, "13.0", now)


def test_recorded_kernels_of_stage_1_leave_memory_the_limit():
    recorded = budget.load().kernels[stage1.TARGET]
    costs = {name: cost.per_byte for name, cost in recorded.items() if cost.per_byte}
    assert len(costs) == 16
    assert max(costs.values()) <= stage1.MOST_PER_BYTE


@pytest.mark.parametrize(
    ("source", "targets"),
    [
        ("sparse_attention_s8-s8", ["120"]),
        pytest.param("sparse_attention_wgmma", ["90a"], marks=pytest.mark.long),
        ("reorder_quantize_f16-64", ["90a"]),
    ],
    ids=["s8", "wgmma", "stage1"],
)
def test_kernels_keep_their_budget(source, targets):
    result = gate("--sources", source, "--jobs", "1", "--targets", *targets)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.long
def test_all_kernels_keep_their_budget():
    result = gate("--jobs", "2")
    assert result.returncode == 0, result.stdout + result.stderr


def test_an_unknown_source_is_refused():
    result = gate("--sources", "sparse_attention_s9")
    assert result.returncode == 2
    assert "sparse_attention_s8-s8" in result.stderr


def test_resources_are_recorded():
    """Every kernel of stage 2 on every target: registers, shared memory, thread blocks of an SM."""
    found = resources.table(emulated_kernels().path)
    assert found == resources.FILE.read_text(), resources.UPDATE
    rows = list(resources.all_resources(emulated_kernels().path))
    recorded = budget.load().kernels
    stage2 = {(t, name) for t in recorded for name in recorded[t] if "attention" in name}
    assert {(row.target, row.kernel) for row in rows} == stage2
    for row in rows:
        assert row.blocks_an_sm >= 1, row
        assert row.shared_bytes <= resources.SMS[row.target].block_shared_bytes, row


def resources_of(
    target: str, kernel: str, tokens: int = resources.TOKENS, registers: int = 255
) -> resources.Resources:
    describer = resources.Describer(emulated_kernels().path)
    return resources.resources_of(describer, target, kernel, registers, tokens)


@pytest.mark.parametrize("target", ["86", "89", "120"])
def test_two_blocks_of_the_main_kernel_share_100_kb(target):
    """Up to some number of tokens: their mask fills what the tiles leave. Two query blocks of 64
    rows have two rows of it."""
    for block_q, tokens in ((128, 188_416), (64, 90_112)):
        kernel = f"sparse_attention 128x{block_q}x64 s8-s8"
        assert resources_of(target, kernel, tokens).blocks_an_sm == 2
        assert resources_of(target, kernel, tokens + 1).blocks_an_sm == 1


def test_occupancy_counts_registers_shared_memory_and_threads():
    kernel = "sparse_attention 64x128x64 s8-s8"  # 128 threads, 25 KB
    assert (row := resources_of("80", kernel)).limit == "registers"
    assert row.blocks_an_sm == 2
    few = resources_of("86", kernel, registers=40)
    assert (few.blocks_an_sm, few.limit) == (3, "shared memory")
    assert resources_of("80", kernel, registers=40).blocks_an_sm == 6


_LARGE = {"f16-f16", "f16-s8", "f16-s4"}
ONE_BLOCK = {"80": {"f16-f16"}, "86": _LARGE, "89": _LARGE, "120": {*_LARGE, "s4-f16"}}
"""Numbers of kernels with D = 128, block_q 128 and steps of 64, of which an SM has shared memory
for one thread block alone; bfloat16 as float16. Registers allow two of all."""


def test_the_main_kernels_have_as_many_blocks_as_their_launch_bounds():
    for row in resources.all_resources(emulated_kernels().path):
        name, sizes, *numbers = row.kernel.split()
        if name != "sparse_attention" or sizes not in ("64x128x64", "128x128x64"):
            continue
        large = numbers[0].replace("bf", "f") in ONE_BLOCK.get(row.target, ())
        has_one = sizes == "128x128x64" and large
        assert row.blocks_an_sm == (1 if has_one else 2), row


@pytest.mark.parametrize("target", ["86", "89", "120"])
@pytest.mark.parametrize("kernel", ["128x128x64 s8-f16", "128x64x64 s8-f16"])
def test_two_blocks_with_one_slot_of_values_share_100_kb(kernel, target):
    assert resources_of(target, f"sparse_attention {kernel}").blocks_an_sm == 2


@pytest.mark.parametrize("target", sorted(resources.SMS))
def test_what_an_sm_cannot_hold_is_refused_by_name(target):
    """The sizes of resources.py are those of the kernels' own rule."""
    most = resources.SMS[target].block_shared_bytes
    describer = resources.Describer(emulated_kernels().path)

    def said(kernel: str, tokens: int) -> str:
        sm = resources.generation_of(kernel, target)
        return describer.describe(resources.call_of(kernel, tokens), sm)

    refused = []
    for kernel in (name for name in budget.load().kernels[target] if "attention" in name):
        try:
            text = said(kernel, 1 << 24)
        except ValueError as error:
            text = str(error)
        if not text.startswith("tokens"):
            assert int(re.findall(r"(\d+) bytes of shared", text)[0]) <= most
            continue
        refused.append(kernel)
        found = re.fullmatch(
            rf"tokens: expected at most (\d+), whose mask fits the {most} bytes of shared memory of"
            rf" a thread block on sm_\d+, got {1 << 24}, which needs (\d+) bytes",
            text,
        )
        assert found is not None, text
        assert int(found[2]) > most
        said(kernel, int(found[1]))
        with pytest.raises(ValueError, match="tokens: expected at most"):
            said(kernel, int(found[1]) + 1)
    assert refused or most > 128 * 1024
    # With more memory, only masks of two query blocks, of two planes and of two tiles are too long.
    double = ("x64x", "_fine", "_wgmma")
    assert most < 128 * 1024 or all(any(x in name for x in double) for name in refused)
