"""Counted time: against the budgets of the compiled kernels, and where 4 bits pay."""

from __future__ import annotations

import json

import pytest

from paro_trt.calibration.time_model import (
    Target,
    clocks_per_score,
    relative_time,
    worthwhile_bits,
)
from plugins.kernels.sass import budget as sass_budget

PIPES = ("tensor", "issue", "fp32", "transcendental")


def recorded():
    """(target, head_dim, qk, pv, clocks of the busiest pipe for a step) of recorded kernels."""
    kernels = json.loads(sass_budget.FILE.read_text())["kernels"]
    bits = {"f16": 16, "s8": 8, "s4": 4}
    for sm, named in kernels.items():
        for name, entry in named.items():
            kind, size, numbers, *_ = *name.split(), "", ""
            if kind != "sparse_attention" or size[-7:] != "x128x64" or "bf16" in numbers:
                continue
            if "clocks" in entry:
                clocks = max(entry["clocks"][pipe] for pipe in PIPES)
                qk, pv = (bits[number] for number in numbers.split("-"))
                yield sm.removesuffix("a"), int(size.split("x")[0]), qk, pv, clocks


def test_ratios_are_those_of_the_kernels_busiest_pipe():
    found = {key: clocks for *key_, clocks in recorded() for key in [tuple(key_)]}
    compared = 0
    for (sm, head_dim, qk, pv), clocks in found.items():
        base = found.get((sm, head_dim, 8, 8))
        # The 8-bit kernel of sm_90 is the one by wgmma, which is recorded apart.
        if base is None or sm == "90":
            continue
        target = Target(f"sm_{sm}")
        counted = clocks_per_score(target, head_dim, qk, pv) / clocks_per_score(
            target, head_dim, 8, 8
        )
        assert counted == pytest.approx(clocks / base, rel=0.2), (sm, head_dim, qk, pv)
        compared += 1
    assert compared >= 20


@pytest.mark.parametrize("target", list(Target))
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("smoothed", [None, 64, 128])
def test_fewer_bits_are_offered_only_where_they_are_faster(target, head_dim, smoothed):
    pairs = worthwhile_bits(target, head_dim, 4, 4, smoothed)
    assert pairs[0] == (16, 16)
    assert relative_time(target, head_dim, 16, 16) == 1.0
    assert (8, 8) in pairs
    times = {pair: relative_time(target, head_dim, *pair, smoothed) for pair in pairs}
    for narrow in [pair for pair in pairs if 4 in pair]:
        wider = [of for of in pairs if of != narrow and of[0] >= narrow[0] and of[1] >= narrow[1]]
        assert all(times[narrow] < times[of] for of in wider)
    if target not in (Target.SM_80, Target.SM_86, Target.SM_89):
        assert all(4 not in pair for pair in pairs)


def test_four_bits_pay_on_sm_89_and_16_alone_can_be_asked_for():
    assert {(4, 8), (4, 4)} <= set(worthwhile_bits(Target.SM_89, 128, 4, 4))
    assert worthwhile_bits(Target.SM_89, 128, 16, 16) == ((16, 16),)
    assert worthwhile_bits(Target.GENERIC, 128, 8, 16) == ((16, 16), (8, 16))


def test_smoothed_products_pay_where_4_bits_are_native_with_wide_key_blocks():
    for target in Target:
        for keys in (64, 128):
            pairs = worthwhile_bits(target, 128, 4, 8, keys)
            pays = target in (Target.SM_80, Target.SM_86, Target.SM_89) and keys == 128
            assert [pair for pair in pairs if pair[0] == 4] == ([(4, 8)] if pays else [])
