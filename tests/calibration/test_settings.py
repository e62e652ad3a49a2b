import pytest

from paro_trt.calibration.settings import CalibrationSettings
from paro_trt.errors import ArgumentError


@pytest.mark.parametrize(
    ("arguments", "subject"),
    [
        ({"density": None}, "mask target"),
        ({"mass": 0.9}, "mask target"),
        ({"block_q": 32}, "block_q"),
        ({"qk_bits": 5}, "qk_bits"),
        ({"bins": 0}, "bins"),
        ({"prompt_limit": 0}, "prompt_limit"),
        ({"steps": 3}, "steps"),
        ({"int4_max_error": float("nan")}, "int4_max_error"),
    ],
)
def test_bad_settings_are_refused(arguments, subject):
    with pytest.raises(ArgumentError, match=subject):
        CalibrationSettings(**arguments)


def test_bins_are_equal_and_captured_steps_spread_over_them():
    settings = CalibrationSettings(steps=20, bins=2, captured_steps=2)
    assert settings.bin_starts() == (0, 10)
    assert settings.captured() == ((2, 7), (12, 17))
    uneven = CalibrationSettings(steps=7, bins=3, captured_steps=2)
    assert uneven.bin_starts() == (0, 2, 4)
    assert uneven.captured() == ((0, 1), (2, 3), (4, 6))
