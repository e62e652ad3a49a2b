from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch

from paro_trt.calibration.inputs import LayerInputs
from paro_trt.calibration.quantize import (
    LARGEST_FACTOR,
    VARIANTS,
    Product,
    channel_ranges,
    choose_quantization,
    measure_quantization,
    product_affine,
    random_signs,
)
from paro_trt.families.base import AttentionSite
from paro_trt.op.mask import pack_block_mask, tile_order
from paro_trt.op.reference import paro_attention_reference
from paro_trt.op.spec import AffineRow, AttentionConfig, AttentionInputs
from tests.support.stress import STRESS_CASE, STRESSES

TOKENS, HEADS, KV_HEADS, CHANNELS = 192, 4, 2, 16
CONFIG = AttentionConfig(64, 64, 8, 8, pool_dropped=True)


SITE = AttentionSite("attn", HEADS, KV_HEADS, CHANNELS)


class Layer(NamedTuple):
    """Attention inputs of a layer, the order int64 [S] and the mask bool [NQ, NK] of each head."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    orders: torch.Tensor
    masks: torch.Tensor

    def measured(self, ranges, config: AttentionConfig):
        inputs = LayerInputs(SITE, self.query, self.key, self.value, 0.25)
        return measure_quantization(inputs, self.orders, self.masks, ranges, config, range(3)).sums


def random_layer(seed: int = 0, outlier: float = 1.0) -> Layer:
    """Inputs with biased keys and values; `outlier` scales one key and one value channel."""
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(TOKENS, HEADS, CHANNELS, generator=generator) + 0.2
    key, value = torch.randn(2, TOKENS, KV_HEADS, CHANNELS, generator=generator).unbind()
    key[..., 3] *= outlier
    value[..., 5] *= outlier
    query[..., 3] /= outlier
    orders = torch.stack([torch.randperm(TOKENS, generator=generator)] * HEADS)
    masks = torch.eye(3, dtype=torch.bool).expand(HEADS, 3, 3).clone()
    masks[:, :, 1] = True
    return Layer(query, key + 3.0, value - 4.0, orders, masks)


def ranges_of(layer: Layer):
    found = channel_ranges(layer.query, layer.key, layer.value)
    return {**found.sums, **found.maxima}


def op_output(
    layer: Layer,
    affine: np.ndarray,
    config: AttentionConfig,
    rotation: np.ndarray | None = None,
) -> torch.Tensor:
    """The whole op through its public reference; f32 [S, H, D]."""
    mask = torch.from_numpy(pack_block_mask(layer.masks.numpy()))[None]
    inputs = AttentionInputs(
        layer.query[None], layer.key[None], layer.value[None],
        layer.orders[:1].int(), torch.zeros(HEADS, dtype=torch.int32), mask,
        torch.from_numpy(tile_order(mask.numpy())), torch.from_numpy(affine),
        torch.zeros(1, dtype=torch.int32), torch.tensor([TOKENS], dtype=torch.int32),
        rotation=None if rotation is None else torch.from_numpy(rotation),
    )  # fmt: skip
    scaled = replace(config, scale=0.25, smoothing=rotation is not None)
    return paro_attention_reference(inputs, scaled)[0]


def identity() -> np.ndarray:
    affine = np.zeros((4, KV_HEADS, CHANNELS), np.float32)
    affine[[1, 3]] = 1
    return affine


def test_ranges_of_two_captures_combine_to_those_of_both():
    first, second = random_layer(1), random_layer(2)
    both = channel_ranges(*(torch.cat([a, b]) for a, b in zip(first[:3], second[:3], strict=True)))
    apart = [channel_ranges(*layer[:3]) for layer in (first, second)]
    for name, value in both.sums.items():
        np.testing.assert_allclose(apart[0].sums[name] + apart[1].sums[name], value, rtol=1e-6)
    for name, value in both.maxima.items():
        assert np.array_equal(np.maximum(apart[0].maxima[name], apart[1].maxima[name]), value)


@pytest.mark.parametrize("with_mean", [False, True])
def test_equalized_query_and_key_peaks_agree(with_mean):
    layer = random_layer(3)
    shift, factor = product_affine(ranges_of(layer), Product.QK, with_mean, True)
    np.testing.assert_allclose(np.log(factor).mean(axis=-1), 0, atol=1e-6)
    if with_mean:
        np.testing.assert_allclose(shift, layer.key.mean(0), rtol=1e-5)
    key = (layer.key.numpy() - shift) / factor
    query = layer.query.view(TOKENS, KV_HEADS, -1, CHANNELS).numpy() * factor[:, None]
    ratio = np.abs(key).max(axis=0) / np.abs(query).max(axis=(0, 2))
    np.testing.assert_allclose(ratio, ratio[:, :1].repeat(CHANNELS, 1), rtol=1e-4)


def test_a_dead_channel_is_clamped():
    layer = random_layer(4)
    layer.key[..., 2] = layer.query[..., 2] = 0
    layer.value[..., 2] = 1.5
    for product in Product:
        for kept in VARIANTS:
            shift, factor = product_affine(ranges_of(layer), product, *kept)
            assert np.isfinite(shift).all()
            assert (factor >= 1 / LARGEST_FACTOR).all()
            assert (factor <= LARGEST_FACTOR).all()


def test_measured_error_is_that_of_the_whole_op():
    layer = random_layer(5)
    measured = layer.measured(ranges_of(layer), CONFIG)
    exact = op_output(layer, identity(), AttentionConfig(64, 64, 16, 16, True))
    energy = exact.square().sum(dim=(0, 2)).view(KV_HEADS, -1).sum(1)
    np.testing.assert_allclose(measured["energy"], energy, rtol=1e-5)
    logits = torch.einsum("shd,thd->hst", layer.query, layer.key.repeat_interleave(2, 1)) * 0.25
    dense = torch.einsum("hst,thd->shd", logits.softmax(-1), layer.value.repeat_interleave(2, 1))
    np.testing.assert_allclose(
        measured["mask_error"], (exact - dense).square().sum(dim=(0, 2)), rtol=1e-4
    )
    np.testing.assert_allclose(measured["dense_energy"], dense.square().sum(dim=(0, 2)), rtol=1e-5)
    for variant, kept in enumerate(VARIANTS):
        affine = identity()
        affine[0], affine[1] = product_affine(ranges_of(layer), Product.QK, *kept)
        rough = op_output(layer, affine, AttentionConfig(64, 64, 8, 16, True))
        error = (rough - exact).square().sum(dim=(0, 2)).view(KV_HEADS, -1).sum(1)
        np.testing.assert_allclose(measured["qk8"][variant], error, rtol=2e-2)


def test_chosen_affine_lowers_the_error_of_biased_and_uneven_channels():
    layer = random_layer(6, outlier=12.0)
    ranges = ranges_of(layer)
    measured = layer.measured(ranges, CONFIG)
    choice = choose_quantization(measured, ranges, CONFIG, int4_max_error=0.05)
    exact = op_output(layer, identity(), AttentionConfig(64, 64, 16, 16, True))
    plain, tuned = (
        float((op_output(layer, affine, CONFIG) - exact).norm() / exact.norm())
        for affine in (identity(), choice.channel_affine)
    )
    assert (choice.qk_bits, choice.pv_bits) == (8, 8)
    assert tuned < 0.7 * plain
    assert (choice.channel_affine[0] != 0).any()
    assert (choice.channel_affine[2] != 0).any()


def test_a_row_of_the_affine_that_does_not_help_stays_the_identity():
    ranges = ranges_of(random_layer(7))
    worse = np.ones((len(VARIANTS), KV_HEADS))
    worse[0] = 0.5
    mean_helps = worse.copy()
    mean_helps[1, 1] = 0.1
    measured = {"energy": np.full(KV_HEADS, 2.0), "qk8": worse, "pv8": mean_helps}
    choice = choose_quantization(measured, ranges, CONFIG, 0.05)
    affine = choice.channel_affine
    np.testing.assert_allclose(choice.added_error, [0.5, 0.3])
    assert np.array_equal(affine[:2], identity()[:2])
    assert np.array_equal(affine[:, 0], identity()[:, 0])
    assert (affine[2, 1] != 0).all()
    assert (affine[3] == 1).all()


def test_16_bits_have_the_identity():
    layer = random_layer(8)
    config = AttentionConfig(64, 64, 16, 16, True)
    choice = choose_quantization({"energy": np.ones(KV_HEADS)}, ranges_of(layer), config, 0.05)
    assert np.array_equal(choice.channel_affine, identity())
    assert (choice.qk_bits, choice.pv_bits) == (16, 16)


@pytest.mark.parametrize(("limit", "bits"), [(1.0, 4), (1e-6, 8)])
def test_4_bits_stand_only_where_the_error_allows(limit, bits):
    layer = random_layer(9)
    config = AttentionConfig(64, 64, 4, 4, True)
    ranges = ranges_of(layer)
    measured = layer.measured(ranges, config)
    choice = choose_quantization(measured, ranges, config, limit)
    assert (choice.qk_bits, choice.pv_bits) == (bits, bits)
    assert ("4 bits would add" in choice.reason) == (bits == 8)


SMOOTHED = AttentionConfig(64, 64, 4, 16, pool_dropped=True, smoothing=True)


def test_measured_error_of_smoothed_products_is_that_of_the_whole_op():
    layer = random_layer(10)
    ranges = ranges_of(layer)
    measured = layer.measured(ranges, SMOOTHED)
    assert measured["qk4"].shape == (2 * len(VARIANTS), KV_HEADS)
    assert measured["qk8"].shape == (len(VARIANTS), KV_HEADS)
    exact = op_output(layer, identity(), AttentionConfig(64, 64, 16, 16, True))
    for variant, errors in enumerate(measured["qk4"]):
        rotated, kept = divmod(variant, len(VARIANTS))
        affine = identity()
        affine[0], affine[1] = product_affine(ranges, Product.QK, *VARIANTS[kept])
        signs = random_signs(KV_HEADS, CHANNELS) * np.int32(rotated)
        rough = op_output(layer, affine, SMOOTHED, signs)
        error = (rough - exact).square().sum(dim=(0, 2)).view(KV_HEADS, -1).sum(1)
        np.testing.assert_allclose(errors, error, rtol=2e-2)


def test_a_head_is_rotated_only_where_that_lowers_its_error():
    """Rotation spreads the one large channel of head 0; head 1 has even ones."""
    layer = random_layer(11)
    for head in range(HEADS // KV_HEADS):
        layer.query[:, head, 3] *= 30
    layer.key[:, 0, 3] *= 30
    layer.key[:, 0, 5] *= 30
    ranges = ranges_of(layer)
    errors = layer.measured(ranges, SMOOTHED)["qk4"].reshape(2, -1, KV_HEADS).min(axis=1)
    choice = choose_quantization(layer.measured(ranges, SMOOTHED), ranges, SMOOTHED, 10.0)
    gains = errors[1] < 0.95 * errors[0]
    assert gains[0]
    assert (choice.rotation[gains] == random_signs(KV_HEADS, CHANNELS)[gains]).all()
    assert (choice.rotation[~gains] == 0).all()


@pytest.mark.parametrize(("rotated_error", "rotated"), [(0.97, False), (0.9, True)])
def test_a_rotation_must_pay_for_itself(rotated_error, rotated):
    qk4 = np.ones((2 * len(VARIANTS), KV_HEADS))
    qk4[1] = 0.5
    qk4[len(VARIANTS) + 2] = 0.5 * rotated_error
    qk8 = np.full((len(VARIANTS), KV_HEADS), 1e-3)
    measured = {"energy": np.full(KV_HEADS, 100.0), "qk4": qk4, "qk8": qk8}
    ranges = ranges_of(random_layer(12))
    choice = choose_quantization(measured, ranges, SMOOTHED, 1.0)
    kept = VARIANTS[2 if rotated else 1]
    shift, factor = product_affine(ranges, Product.QK, *kept)
    np.testing.assert_array_equal(choice.channel_affine[:2], [shift, factor])
    assert (choice.rotation != 0).all() == rotated
    assert f"{KV_HEADS if rotated else 0} of {KV_HEADS} heads rotated" in choice.reason
    np.testing.assert_allclose(choice.added_error, 0.005 * (rotated_error if rotated else 1.0))


def test_8_bits_are_not_smoothed():
    layer = random_layer(13)
    ranges = ranges_of(layer)
    choice = choose_quantization(layer.measured(ranges, SMOOTHED), ranges, SMOOTHED, 0.0)
    assert (choice.qk_bits, choice.rotation) == (8, None)
    plain = replace(SMOOTHED, smoothing=False)
    choice = choose_quantization(layer.measured(ranges, plain), ranges, plain, 10.0)
    assert (choice.qk_bits, choice.rotation) == (4, None)


def test_channels_that_no_hadamard_transform_has_are_not_smoothed():
    site = AttentionSite("attn", HEADS, KV_HEADS, 12)
    layer = random_layer(14)
    query, key, value = (x[..., :12].contiguous() for x in layer[:3])
    found = channel_ranges(query, key, value)
    ranges = {**found.sums, **found.maxima}
    inputs = LayerInputs(site, query, key, value, 0.25)
    measured = measure_quantization(inputs, layer.orders, layer.masks, ranges, SMOOTHED, range(3))
    assert measured.sums["qk4"].shape == (len(VARIANTS), KV_HEADS)
    choice = choose_quantization(measured.sums, ranges, SMOOTHED, 10.0)
    assert (choice.qk_bits, choice.rotation) == (4, None)


@pytest.mark.long
@pytest.mark.parametrize("stress", STRESSES, ids=lambda stress: stress.name)
def test_what_breaks_careless_numerics_gives_a_choice_of_numbers(stress, fresh_seed):
    drawn = stress.inputs(STRESS_CASE, fresh_seed)
    query, key, value = (x[0] for x in drawn[:3])
    found = channel_ranges(query, key, value)
    ranges = {**found.sums, **found.maxima}
    inputs = LayerInputs(AttentionSite("attn", 2, 2, 64), query, key, value, 0.125)
    orders = drawn.token_order[drawn.head_order.long()].long()
    masks = torch.ones(2, 4, 4, dtype=torch.bool)
    config = replace(STRESS_CASE.config, qk_bits=4, pv_bits=4, smoothing=True)
    measured = measure_quantization(inputs, orders, masks, ranges, config, range(4)).sums
    assert all(np.isfinite(errors).all() for errors in measured.values())
    choice = choose_quantization(measured, ranges, config, 0.05)
    assert np.isfinite(choice.channel_affine).all()
    assert (choice.channel_affine[[AffineRow.EQUALIZER, AffineRow.VALUE_SCALE]] > 0).all()
    assert np.isfinite(choice.added_error).all()
