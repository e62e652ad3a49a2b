import pytest

from paro_trt.calibration.select_mask import MaskMetric
from paro_trt.calibration.settings import CalibrationSettings
from paro_trt.errors import ArgumentError


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
