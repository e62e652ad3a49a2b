"""The benchmark of allocations on a deep model, on one of two layers."""

import pytest

from samples.benchmarks.deep_allocation import PLANS, measured_row, table, unlike_model


@pytest.mark.long
def test_plans_are_measured_at_one_cost(tmp_path):
    loaded = unlike_model(2)
    names = ["`layer`", "`measured`, two groups"]
    rows = [measured_row(loaded, name, PLANS[name], tmp_path) for name in names]
    by_layer, measured = rows
    assert measured.cost == pytest.approx(by_layer.cost, rel=0.05)
    assert by_layer.forwards < measured.forwards
    assert by_layer.expected is None
    assert measured.whole == pytest.approx(measured.expected, rel=0.2)
    assert 0 < measured.latents < 1
    assert measured.heldout <= 1.05 * by_layer.heldout
    assert len(table(rows)) == 2 + len(rows)
