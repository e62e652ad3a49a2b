"""Tables of the benchmark of allocations, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from samples.benchmarks.allocation import (
    PlanPsnr,
    PredictionError,
    app,
    error_table,
    video_table,
)


def test_errors_of_calls_are_weighted_together() -> None:
    found = [
        PredictionError(plan, prompt, 1, error, 4.0)
        for plan, errors in (("layer", (0.25, 0.75)), ("measured", (0.01, 0.07)))
        for prompt, error in enumerate(errors)
    ]
    assert error_table(found)[2:] == ["| layer | 2 | 0.3536 |", "| measured | 2 | 0.1000 |"]


def test_videos_are_paired() -> None:
    found = [PlanPsnr("layer", 0, 30.0), PlanPsnr("layer", 1, 20.0), PlanPsnr("layer", 2, 10.0)]
    found += [PlanPsnr("measured", 0, 31.0), PlanPsnr("measured", 1, 18.0)]
    table = video_table(found)
    assert table[4] == "| 2 | 10.00 |  |"
    assert table[-1] == "| less layer |  | -0.50 ± 1.50, 1 of 2 better |"


@pytest.mark.parametrize(
    ("arguments", "message"), [(["videos"], "no plans"), (["plans", "--plan", "x"], "'x'")]
)
def test_what_is_missing_is_one_refusal(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [*arguments, "--work", str(tmp_path / "work")])
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "work").exists()
