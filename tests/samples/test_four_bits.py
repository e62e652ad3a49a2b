"""The benchmark of 4-bit products: its sums, its bounds, and unfinished results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from paro_trt.op.quantization import quantize
from paro_trt.plan import Grid, TextLayout
from samples.benchmarks.four_bits.errors import error_page, load_errors, measure_errors
from samples.benchmarks.four_bits.modes import Bits
from samples.benchmarks.four_bits.outliers import (
    Inputs,
    best_agreement,
    best_levels,
    free_codes,
    lost_variance,
    mode_agreement,
    uniform_codes,
    uniform_levels,
)
from samples.benchmarks.four_bits.planned import Agreement, Planned, plan_layer
from samples.benchmarks.four_bits.videos import ModePsnr, attended, measure_videos, video_page
from samples.benchmarks.quality.calibrated import Calibrated
from samples.benchmarks.quality.sources import Source, Split
from samples.benchmarks.quality.synthetic import HeadStructure, draw_call

GRID = Grid(2, 16, 16)
HEADS = (HeadStructure((4, 1.5, 4), 1.5), HeadStructure((3, 3, 3), 2.0))


@pytest.fixture(scope="module")
def source() -> Source:
    """One layer of 512 tokens, all rows judged."""
    calls = {
        split: [draw_call(0, HEADS, 0, 100 * number, GRID, 0)]
        for number, split in enumerate((Split.CALIBRATION, Split.HELDOUT))
    }
    return Source("fields", GRID, TextLayout(), tuple(range(4)), calls)


@pytest.fixture(scope="module")
def planned(source: Source) -> Planned:
    return plan_layer(source, Calibrated(source), 0)


def test_sums_make_error_and_cosine() -> None:
    found, dense = torch.randn(2, 6, 10, dtype=torch.float64)
    halves = [Agreement.of(found[part], dense[part]) for part in (slice(0, 2), slice(2, 6))]
    whole = halves[0].plus(halves[1])
    cosine = torch.nn.functional.cosine_similarity(found.flatten(), dense.flatten(), dim=0)
    assert whole.cosine == pytest.approx(float(cosine))
    assert whole.relative_error == pytest.approx(float((found - dense).norm() / dense.norm()))


def test_the_cpu_backend_computes_what_errors_are_measured_of(
    source: Source, planned: Planned
) -> None:
    call, bits = source.calls[Split.HELDOUT][0], Bits(4, 8, smoothed=True)
    logits = torch.einsum("shd,thd->hst", call.query, call.key) * call.scale
    dense = torch.einsum("hst,thd->shd", logits.softmax(dim=2), call.value)

    of_backend = Agreement.of(attended({0: planned}, call, bits), dense).relative_error
    of_reference = planned.agreement(call, bits, sparse=True).relative_error

    assert of_backend == pytest.approx(of_reference, rel=1e-3)
    assert of_reference > 1.5 * planned.agreement(call, bits, sparse=False).relative_error


def test_layers_that_were_measured_are_kept(source: Source, tmp_path: Path) -> None:
    path = tmp_path / "errors.json"
    found = measure_errors(source, 1, 128, path)
    assert load_errors(path) == found
    errors = {(call.mode, call.sparse): call.error for call in found[0].calls}
    assert errors["QK 8, PV 16", False] < errors["QK 4 smoothed, PV 16", False]
    assert errors["QK 4 smoothed, PV 16", False] < errors["QK 4, PV 16", False]
    page = "\n".join(error_page("fields", 128, found))
    assert "| QK 16, PV 16 |  |  | 0." in page

    changed = json.loads(path.read_text())
    changed[0]["rotated"] = 77
    path.write_text(json.dumps(changed))
    assert [layer.rotated for layer in measure_errors(source, 1, 128, path)] == [77]


def test_videos_that_were_measured_are_kept(source: Source, tmp_path: Path) -> None:
    known = [ModePsnr(str(bits), 0, 30.0) for bits in (Bits(8, 8), Bits(4, 8, smoothed=True))]
    path = tmp_path / "videos.json"
    path.write_text(json.dumps([vars(one) for one in known]))
    modes = (Bits(8, 8), Bits(4, 8, smoothed=True))
    assert measure_videos(source, 1, path, modes) == known


def test_videos_are_compared_with_those_of_the_first_mode() -> None:
    found = [
        ModePsnr(mode, video, 30.0 + video + change[video])
        for mode, change in (("a", (0.0, 0.0)), ("b", (-1.0, 2.0)))
        for video in range(2)
    ]
    found.append(ModePsnr("a", 2, 99.0))  # unfinished
    assert video_page(found)[-1] == "| less a |  | +0.50 ± 1.50 (-1.00 to +2.00) |"


def test_losses_are_those_of_the_literature() -> None:
    """Max, Quantizing for minimum distortion (1960), tables I and II."""
    assert lost_variance(best_levels()) == pytest.approx(0.009497, abs=5e-6)
    assert lost_variance(uniform_levels()) == pytest.approx(0.01154, abs=5e-6)


def test_best_codes_lose_least(fresh_seed: int) -> None:
    x = torch.randn(64, 64, generator=torch.Generator().manual_seed(fresh_seed))
    codes, scale = quantize(x, 4, (1,))
    losses = [
        float((y - x).square().mean()) for y in (codes * scale, uniform_codes(x), free_codes(x))
    ]
    assert losses == sorted(losses, reverse=True)
    assert losses[2] < 0.0102
    assert all(len(row.unique()) <= 16 for row in uniform_codes(x))


@pytest.mark.parametrize("inputs", [Inputs("off zero", offset=8.0), Inputs("large", factor=8.0)])
def test_no_mode_of_four_bits_is_above_the_best_codes(inputs: Inputs) -> None:
    call = inputs.draw(512, 64, 0)
    best = best_agreement(call, uniform_codes).cosine
    assert mode_agreement(call, Bits(4, 8, smoothed=True)).cosine < best < 0.995
    assert best_agreement(call, lambda x: x).cosine == pytest.approx(1.0)
