from dataclasses import replace

import pytest

from paro_trt.calibration.select_mask import Allocation, MaskMetric
from paro_trt.calibration.settings import CalibrationSettings, bins_for_steps, with_defaults
from paro_trt.calibration.time_model import Target
from paro_trt.errors import ArgumentError

MEASURED = {"density": None, "allocation": Allocation.MEASURED}


@pytest.mark.parametrize(
    ("arguments", "subject"),
    [
        ({"density": None}, "density, mass, cost"),
        ({"mass": 0.9}, "density, mass, cost"),
        ({"cost": 0.2}, "density, mass, cost: .* got density 0.3 and cost 0.2"),
        ({"density": None, "cost": 20}, r"cost: .* fix: 20 percent is 0\.2"),
        ({"density": None, "cost": 0.2, "pool_dropped": False}, "pool_dropped"),
        ({"density": None, "cost": 0.2, "mask_metric": MaskMetric.MASS}, "mask_metric"),
        ({"density": 30.0}, r"density: .* got 30; fix: 30 percent is 0\.3"),
        ({"block_q": 32}, "block_q"),
        ({"qk_bits": 5}, "qk_bits"),
        ({"speedup": 1.5}, r"speedup: .* got 1\.5; fix: .*--allocate measured"),
        ({"max_error": 0.1}, r"max_error: .* got 0\.1; fix: .*--allocate measured"),
        (MEASURED | {"speedup": 0.5}, "speedup: expected at least 1, got 0.5"),
        (MEASURED | {"speedup": float("nan")}, "speedup: expected at least 1, got nan"),
        (MEASURED | {"speedup": 2.0, "cost": 0.2}, "speedup.*got cost and speedup"),
        (MEASURED | {"max_error": 3.0}, r"max_error: .* got 3; fix: 3 percent is 0\.03"),
        (MEASURED | {"mass": 0.9}, "mass: expected none with measured effects"),
        (MEASURED | {"cost": 0.2, "cost_levels": (0.1, 1.0)}, "levels: expected shares"),
        (MEASURED | {"cost": 0.2, "effect_calls": 0}, "effect_calls"),
        (MEASURED | {"cost": 0.2, "qk_bits": 4}, "qk_bits: .*generic.* got 4; fix: .*sm_89"),
        (
            MEASURED | {"cost": 0.2, "pv_bits": 4, "time_target": Target.SM_90},
            "pv_bits: expected 16 or 8 on sm_90",
        ),
        ({"time_target": "sm_70"}, "time_target: expected one of generic, sm_80.* got sm_70"),
        ({"bins": 0}, "bins"),
        ({"prompt_limit": 0}, "prompt_limit"),
        ({"int4_max_error": float("nan")}, "int4_max_error"),
    ],
)
def test_bad_settings_are_refused(arguments, subject):
    with pytest.raises(ArgumentError, match=subject):
        CalibrationSettings(**arguments)


def test_bins_are_equal_and_captured_steps_spread_over_them():
    settings = CalibrationSettings(bins=2, captured_steps=2)
    assert settings.bin_starts(range(20)) == (0, 10)
    assert settings.captured(range(20)) == ((2, 7), (12, 17))
    uneven = CalibrationSettings(bins=3, captured_steps=2)
    assert uneven.bin_starts(range(7)) == (0, 2, 4)
    assert uneven.captured(range(7)) == ((0, 1), (2, 3), (4, 6))


@pytest.mark.parametrize(
    ("steps", "expected"), [(1, (2, 2)), (2, (2, 1)), (4, (4, 1)), (8, (8, 1)), (9, (2, 2))]
)
def test_each_of_a_few_steps_gets_a_bin(steps, expected):
    found = bins_for_steps(CalibrationSettings(), range(steps), 1600, 75_600)
    assert (found.bins, found.captured_steps) == expected


def test_a_cost_has_two_bins_unless_their_masks_are_too_large():
    cost = CalibrationSettings(density=None, cost=0.2, block_q=64, block_k=64)
    wan_480p, wan_720p = (1600, 32_760), (1600, 75_600)
    assert bins_for_steps(cost, range(50), *wan_480p) == cost
    found = bins_for_steps(cost, range(50), *wan_720p)
    assert (found.bins, found.captured_steps) == (1, 4)
    assert bins_for_steps(replace(cost, block_q=128), range(50), *wan_720p) == replace(
        cost, block_q=128
    )
    assert bins_for_steps(cost, range(4), *wan_720p).bins == 4
    assert bins_for_steps(cost, range(1), *wan_720p) == cost
    measured = replace(cost, allocation=Allocation.MEASURED)
    assert bins_for_steps(measured, range(50), *wan_720p) == measured


def test_defaults_follow_from_budget_and_target():
    assert with_defaults({"density": 0.2}) == {"density": 0.2}
    assert with_defaults({"speedup": 2.0, "block_q": 128}) == {
        "density": None, "speedup": 2.0, "block_q": 128
    }  # fmt: skip
    measured = {"cost": 0.2, "allocation": Allocation.MEASURED, "time_target": Target.SM_89}
    assert with_defaults(measured)["qk_bits"] == 4
    assert "pv_bits" not in with_defaults(measured)
    assert with_defaults({**measured, "qk_bits": 8})["qk_bits"] == 8
    assert "qk_bits" not in with_defaults({**measured, "time_target": Target.SM_90})


def test_levels_spread_around_the_budget():
    measured = CalibrationSettings(density=None, cost=0.2, allocation=Allocation.MEASURED)
    assert measured.levels == pytest.approx((1.0, 0.4, 0.28, 0.2, 0.14, 0.1, 0.0))
