"""The quality benchmark: unfinished results, tables, figures and commands."""

import json
import math
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from paro_trt.errors import ArgumentError
from samples.benchmarks.quality.__main__ import app
from samples.benchmarks.quality.measure import (
    DRIFT_POLICIES,
    CallError,
    load_errors,
    measure_drift,
    measure_missing,
    save_errors,
)
from samples.benchmarks.quality.policies import (
    STATIC_2,
    VERSION_1,
    VERSION_2,
)
from samples.benchmarks.quality.report import cells, video_table, write_report
from samples.benchmarks.quality.sources import LayerCall, Source, Split
from samples.benchmarks.quality.videos import (
    VideoQuality,
)
from tests.samples.quality.fields import GRID, TEXT


def test_layers_that_were_measured_are_kept(source: Source, tmp_path: Path) -> None:
    calls = [
        LayerCall(layer, 0, 0, call.query, call.key, call.value, call.scale)
        for layer in range(3)
        for call in source.calls[Split.CALIBRATION][:1]
    ]
    three = Source("three layers", GRID, TEXT, (), {Split.CALIBRATION: calls})
    path, asked = tmp_path / "errors.json", []

    def measure(_: Source, names: list[str], layers: list[int]) -> list[CallError]:
        asked.append((names, layers))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return [CallError(f"{name}: drift", 0.3, *layers, 0, 0, 0.1, 0.3) for name in names]

    with pytest.raises(KeyboardInterrupt):
        measure_missing(measure, ["a"], three, path)
    measure_missing(measure, ["a", "b"], three, path)

    assert asked == [
        (["a"], [0]), (["a"], [1]), (["b"], [0]), (["a", "b"], [1]), (["a", "b"], [2]),
    ]  # fmt: skip
    assert len(load_errors(path)) == 6


class TestReport:
    def results(self, work: Path, source: Source) -> None:
        work.mkdir()
        names = (VERSION_1, STATIC_2, VERSION_2, "Sol-Attn")
        found = [
            CallError(name, cost, 0, 0, prompt, float(torch.rand(())), cost - 0.001)
            for name in names
            for cost in (0.3, 0.2, 0.1)
            for prompt in range(3)
        ]
        save_errors(found, work / "errors-included.json")
        small = Source(source.name, GRID, TEXT, (0, 5), source.calls)
        save_errors(measure_drift(small, (0.6,)), work / "drift-synthetic.json")
        videos = [
            {"policy": name, "cost": 0.3, "video": video, "psnr": 20.0 + video, "ssim": 0.9}
            for name in (VERSION_1, VERSION_2)
            for video in range(2)
        ]
        (work / "videos.json").write_text(json.dumps(videos))

    def test_it_has_every_table_and_figure(self, tmp_path: Path, source: Source) -> None:
        self.results(tmp_path / "work", source)
        write_report(tmp_path / "work", tmp_path / "quality")
        page = (tmp_path / "quality.md").read_text()
        assert all(name in page for name in (*DRIFT_POLICIES, "Sol-Attn"))
        assert "other half of the schedule" in page
        assert len((tmp_path / "quality.csv").read_text().splitlines()) == 13
        for name in ("quality.png", "quality-parts.png", "quality-videos.csv"):
            assert (tmp_path / name).stat().st_size > 0

    def test_differences_are_paired(self) -> None:
        found = [
            CallError(name, 0.3, 0, 0, prompt, error, 0.3)
            for name, of_prompts in ((VERSION_1, (0.1, 0.4)), (STATIC_2, (0.05, 0.1)))
            for prompt, error in enumerate(of_prompts)
        ]
        cell = next(cell for cell in cells("x", found) if cell.policy == STATIC_2)
        assert cell.difference == pytest.approx((-0.5 - 0.75) / 2)
        assert cell.spread == pytest.approx(0.125)

    def test_a_cell_with_a_value_that_is_no_number_is_empty(self) -> None:
        found = [CallError("SpargeAttn", 0.3, 0, 0, 0, error, 0.3) for error in (0.1, math.nan)]
        assert cells("x", found) == []

    def test_videos_are_paired(self) -> None:
        found = [
            VideoQuality(name, 0.3, video, 20.0 + video + gain, 0.9)
            for name, gain in ((VERSION_2, 2.0), (VERSION_1, 0.0))
            for video in range(3)
        ]
        assert "+2.00 ± 0.00 dB | 3 of 3" in "\n".join(video_table(found))

    def test_nothing_measured_is_one_refusal(self, tmp_path: Path) -> None:
        with pytest.raises(ArgumentError, match="measure errors first"):
            write_report(tmp_path, tmp_path / "quality")
        assert list(tmp_path.iterdir()) == []


def test_the_commands_are_listed() -> None:
    page = CliRunner().invoke(app, ["--help"]).output
    assert all(name in page for name in ("errors", "drift", "videos", "report"))
