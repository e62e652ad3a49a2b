"""Instruction counts of the CPU backend against the recorded ones. They have no noise."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.plugins.cpu_builds import build
from tests.plugins.cpu_instruction_sets import of_this_processor
from tests.plugins.cpu_instructions import (
    COUNTS,
    RECORD,
    Counted,
    compiler,
    instructions_per_fine_block,
    instructions_per_score,
)

LARGEST_RISE = 1.03
FINE_SHARE = 1 / 12
"""The most that a fine block may take of an exact one of 64 keys."""

OTHER_COMPILER_RISE = 1.25
"""Scheduling and unrolling differ between compilers; a lost instruction would cost more."""

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(None in map(shutil.which, ("cmake", "g++")), reason="needs cmake and g++"),
]


@pytest.fixture(scope="module")
def programs(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("instructions"), "one_call")


@pytest.mark.parametrize("counted", COUNTS, ids=lambda counted: counted.name)
def test_no_score_takes_more_instructions_than_recorded(counted: Counted, programs):
    if counted.isa not in of_this_processor():
        pytest.skip(f"this processor has no {counted.isa}")
    if not counted.by_stepping and shutil.which("valgrind") is None:
        pytest.skip("needs valgrind")
    record = json.loads(RECORD.read_text())
    expected = record["per score"][counted.name]
    rise = LARGEST_RISE if compiler() == record["compiler"] else OTHER_COMPILER_RISE
    found = instructions_per_score(counted, programs)
    assert found <= rise * expected, f"{found:.3f} instructions a score, recorded: {expected}"
    # A large improvement unrecorded would hide as large a loss after it.
    assert found >= expected / rise, f"{found:.3f} instructions a score: record it"


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="needs valgrind")
@pytest.mark.parametrize("bits", [16, 8])
def test_a_fine_block_takes_a_twelfth_of_an_exact_one(bits, programs):
    if "avx2" not in of_this_processor():
        pytest.skip("this processor has no avx2")
    counted = Counted("avx2", 64, bits)
    exact = 64 * instructions_per_score(counted, programs)
    assert instructions_per_fine_block(counted, programs) <= FINE_SHARE * exact
