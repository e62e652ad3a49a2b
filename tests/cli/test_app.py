"""The program itself: help, option values, and which error ends it how."""

from __future__ import annotations

import errno
import subprocess
import sys
from typing import get_args

import pytest
import typer
from typer.testing import CliRunner

from paro_trt import __version__
from paro_trt.calibration.select_mask import Allocation, MaskMetric
from paro_trt.calibration.select_order import OrderMetric
from paro_trt.cli import choices
from paro_trt.cli.policy import PolicyGroup
from paro_trt.errors import ArgumentError
from paro_trt.op.api import Implementation
from paro_trt.runtime.backends import Backend

VERBS = (
    "doctor", "calibrate", "inspect", "report", "export", "build", "verify", "run", "bench",
    "triton", "generate",
)  # fmt: skip


def test_help_lists_every_verb(paro_process):
    outcome = paro_process("--help")
    assert outcome.status == 0
    assert all(verb in outcome.stdout for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_imports_nothing_heavy(verb):
    code = (
        "import sys; from paro_trt.cli.app import app; from typer.testing import CliRunner;"
        f"assert CliRunner().invoke(app, ['{verb}', '--help']).exit_code == 0;"
        "heavy = {'torch', 'numpy', 'onnx', 'onnxruntime', 'diffusers'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_version(paro):
    outcome = paro("--version")
    assert (outcome.status, outcome.stdout.strip()) == (0, f"paro-trt {__version__}")


def test_unknown_options_and_verbs_are_usage_errors(paro):
    for arguments in (["inspect", "x", "--no-such-option"], ["no-such-verb"], ["run"]):
        outcome = paro(*arguments)
        assert outcome.status == 2
        assert "Usage" in outcome.stderr


@pytest.mark.parametrize(
    ("names", "enum"),
    [
        (choices.OrderMetricName, OrderMetric),
        (choices.MaskMetricName, MaskMetric),
        (choices.AllocationName, Allocation),
        (choices.BackendName, Backend),
        (choices.ImplementationName, Implementation),
    ],
)
def test_option_values_are_those_of_the_enums(names, enum):
    assert list(get_args(names)) == [member.value for member in enum]


def end_with(error):
    program = typer.Typer(cls=PolicyGroup, pretty_exceptions_enable=False)

    @program.command()
    def fail():
        raise error

    @program.callback()
    def keep_the_group():
        pass

    return CliRunner().invoke(program, ["fail"])


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (ArgumentError("x", expected="1", actual="2\n3"), 2, "error: x: expected 1, got 2 3"),
        (OSError(errno.ENOSPC, "No space left on device", "/d/p"), 2, "error: /d/p: No space left"),
        (PermissionError(errno.EACCES, "Permission denied", "/d/p"), 2, "error: /d/p: Permission"),
        (KeyboardInterrupt(), 130, "interrupted: nothing was written"),
    ],
)
def test_errors_of_input_and_machine_are_one_line(error, status, words):
    result = end_with(error)
    assert result.exit_code == status
    assert result.stderr.startswith(words)
    assert result.stderr.count("\n") == 1


def test_a_defect_keeps_its_traceback():
    result = end_with(ZeroDivisionError("a defect"))
    assert isinstance(result.exception, ZeroDivisionError)
    assert result.exit_code == 1
