"""Captures of two heads of one layer, and what is learned of them."""

from __future__ import annotations

import itertools

import pytest

from samples.benchmarks.quality.calibrated import Calibrated
from samples.benchmarks.quality.sources import Source, Split
from samples.benchmarks.quality.synthetic import draw_call
from tests.samples.quality.fields import GRID, HEADS, TEXT


@pytest.fixture(scope="module")
def source() -> Source:
    """Two heads of a layer in both halves of the schedule; a run of rows is not judged."""
    calls = {split: [] for split in Split}
    for (number, split), half, prompt in itertools.product(enumerate(Split), (0, 1), (0, 1)):
        call = draw_call(0, HEADS, prompt, 100 * number + 10 * half + prompt, GRID, TEXT.count)
        object.__setattr__(call, "half", half)
        calls[split].append(call)
    return Source("fields", GRID, TEXT, (0, 1, 3, 4, 5, 6, 7, 8), calls)


@pytest.fixture(scope="module")
def calibrated(source: Source) -> Calibrated:
    return Calibrated(source)
