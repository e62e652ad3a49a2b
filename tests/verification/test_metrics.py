"""Metrics on cases worked out by hand, and by a direct loop for SSIM."""

import math

import numpy as np
import pytest
import torch

from paro_trt.errors import ArgumentError
from paro_trt.verification.metrics import flicker, flicker_ratio, output_errors, psnr, ssim


def test_output_errors_by_hand():
    errors = output_errors(torch.tensor([3.0, 0.0]), torch.tensor([3.0, 4.0]))
    assert errors.max_abs == 4.0
    assert errors.relative_l2 == pytest.approx(0.8)
    assert errors.cosine == pytest.approx(0.6)
    assert errors.not_finite == 0


def test_equal_and_zero_outputs():
    x = torch.randn(5, 7) + 0.5
    equal = output_errors(x, x.clone())
    assert (equal.max_abs, equal.relative_l2) == (0.0, 0.0)
    assert equal.cosine == pytest.approx(1.0, abs=1e-12)
    zero = torch.zeros(3)
    assert output_errors(zero, zero).cosine == 1.0
    assert output_errors(zero, zero + 1).cosine == 0.0
    assert output_errors(zero + 1, zero).relative_l2 == math.inf


def test_cosine_sees_direction_and_relative_l2_sees_scale():
    x = torch.randn(100) + 0.3
    scaled = output_errors(2 * x, x)
    assert scaled.cosine == pytest.approx(1.0)
    assert scaled.relative_l2 == pytest.approx(1.0)
    assert output_errors(-x, x).cosine == pytest.approx(-1.0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_not_finite_elements_are_counted_and_spoil_the_distances(value):
    x = torch.randn(10)
    broken = x.clone()
    broken[[2, 7]] = value
    errors = output_errors(broken, x)
    assert (errors.not_finite, errors.expected_not_finite) == (2, 0)
    assert output_errors(x, broken).expected_not_finite == 2
    assert not errors.cosine > 0.99
    assert not errors.relative_l2 < 1


def test_half_precision_is_compared_in_double():
    x = torch.full((100_000,), 300.0, dtype=torch.float16)
    assert output_errors(x, x).cosine == pytest.approx(1.0)


def test_psnr_by_hand():
    expected = torch.rand(2, 3, 4) * 2 - 1
    assert psnr(expected + 0.2, expected, 2.0) == pytest.approx(20.0, abs=1e-4)
    assert psnr(expected + 0.02, expected, 2.0) == pytest.approx(40.0, abs=1e-3)
    assert psnr(expected + 0.2, expected, 1.0) == pytest.approx(20 - 20 * math.log10(2), abs=1e-4)
    assert psnr(expected, expected, 2.0) == math.inf


def direct_ssim(x, y, data_range):
    """The paper's formula at every window position of one image, in plain loops."""
    offsets = np.arange(11) - 5
    window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    values = []
    for top in range(x.shape[0] - 10):
        for left in range(x.shape[1] - 10):
            a = x[top : top + 11, left : left + 11]
            b = y[top : top + 11, left : left + 11]
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            variance_a = (window * (a - mean_a) ** 2).sum()
            variance_b = (window * (b - mean_b) ** 2).sum()
            covariance = (window * (a - mean_a) * (b - mean_b)).sum()
            values.append(
                (2 * mean_a * mean_b + c1)
                * (2 * covariance + c2)
                / ((mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2))
            )
    return np.mean(values)


def test_ssim_equals_the_formula():
    x = torch.rand(2, 3, 2, 13, 15) * 2 - 1
    y = (x + 0.3 * torch.randn_like(x)).clamp(-1, 1)
    first, second = (v.transpose(1, 2).reshape(-1, 13, 15).double().numpy() for v in (x, y))
    expected = np.mean([direct_ssim(a, b, 2.0) for a, b in zip(first, second, strict=True)])
    assert ssim(x, y, 2.0) == pytest.approx(expected, abs=1e-9)


def test_ssim_of_constant_images_is_the_luminance_term():
    x, y = torch.full((1, 1, 1, 11, 11), 0.2), torch.full((1, 1, 1, 11, 11), 0.6)
    c1 = (0.01 * 2) ** 2
    expected = (2 * 0.2 * 0.6 + c1) / (0.2**2 + 0.6**2 + c1)
    assert ssim(x, y, 2.0) == pytest.approx(expected, abs=1e-6)


def test_ssim_properties():
    x = torch.rand(1, 3, 2, 16, 16)
    little, much = x + 0.02 * torch.randn_like(x), x + 0.3 * torch.randn_like(x)
    assert ssim(x, x, 1.0) == pytest.approx(1.0)
    assert 1 > ssim(little, x, 1.0) > ssim(much, x, 1.0)
    assert ssim(little, x, 1.0) == pytest.approx(ssim(x, little, 1.0))


def test_shapes_are_checked():
    with pytest.raises(ArgumentError, match=r"\[2, 3\]"):
        output_errors(torch.ones(2), torch.ones(2, 3))
    with pytest.raises(ArgumentError, match="at least 11"):
        ssim(torch.ones(1, 1, 1, 10, 20), torch.ones(1, 1, 1, 10, 20), 2.0)
    with pytest.raises(ArgumentError):
        psnr(torch.ones(2), torch.ones(3), 1.0)


def test_flicker_by_hand():
    expected = torch.tensor([0.0, 1.0, 3.0]).view(1, 1, 3, 1, 1).expand(1, 2, 3, 4, 4).clone()
    actual = expected.clone()
    actual[:, :, 1] += 0.5
    added, motion = flicker(actual, expected)
    assert added.tolist() == [0.5, 0.5]
    assert motion.tolist() == [1.0, 2.0]
    assert [flicker_ratio(*pair) for pair in ((0.5, 1.0), (0.5, 0.0), (0.0, 0.0))] == [
        0.5, math.inf, 0.0,
    ]  # fmt: skip
    with pytest.raises(ArgumentError, match="videos"):
        flicker(actual[0], expected[0])


def test_flicker_ignores_what_stays():
    expected = torch.rand(1, 3, 5, 8, 8)
    steady = torch.rand(1, 3, 1, 8, 8)
    added, _ = flicker(expected + steady, expected)
    assert float(added.max()) < 1e-6
    added, motion = flicker(expected.mean(dim=2, keepdim=True).expand_as(expected), expected)
    assert torch.allclose(added, motion)
