"""The emulator's own tests, and mutants: every planted bug must be caught by some mode."""

from __future__ import annotations

import os

import pytest

from .emulator_builds import require_build, run

LONG = [
    pytest.param(variant, marks=pytest.mark.long)
    for variant in ("sanitizers", "ucontext", "ucontext-sanitizers")
]


@pytest.mark.parametrize("variant", ["plain", *LONG])
def test_instructions_and_diagnoses(variant: str) -> None:
    output = run([require_build(variant) / "emulator" / "tests" / "emulator_tests"])
    assert "0 failed" in output


@pytest.mark.parametrize("variant", ["plain", *LONG])
def test_every_mutant_is_caught(variant: str) -> None:
    """Prints the table (pytest -s): mutant, and what each mode saw."""
    output = run([require_build(variant) / "emulator" / "tests" / "emulator_mutants"])
    print(output)
    assert "0 unexpected" in output
    assert "MISSED" not in output
    assert "FALSE ALARM" not in output


def test_os_threads_do_not_change_results() -> None:
    env = {**os.environ, "PARO_EMULATOR_THREADS": "3", "PARO_EMULATOR_SEED": "4"}
    program = require_build("plain") / "emulator" / "tests" / "emulator_tests"
    assert "0 failed" in run([program], env)
