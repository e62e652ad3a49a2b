"""Intercepting a model's attention: unchanged results, layer names, refusals."""

import pytest
import torch
import torch.nn.functional as F

from paro_trt.errors import ModelError
from paro_trt.families.base import AttentionSite, Geometry
from paro_trt.families.wan import WanFamily
from paro_trt.models.intercept import intercept_attention
from paro_trt.plan import Grid
from tests.support.tiny_wan import tiny_wan, tiny_wan_inputs

FAMILY = WanFamily()
GEOMETRY = Geometry(Grid(2, 8, 8))


def forward(model, inputs):
    return FAMILY.forward(model, GEOMETRY, *inputs)[0]


def stock_attention(_site, query, key, value, scale):
    heads_first = [tensor.transpose(1, 2) for tensor in (query, key, value)]
    return F.scaled_dot_product_attention(*heads_first, scale=scale).transpose(1, 2)


@pytest.fixture(scope="module")
def model():
    return tiny_wan(seed=3)


def test_stock_attention_as_handler_changes_nothing(model):
    latents, timestep, conditioning = tiny_wan_inputs(2)
    expected = forward(model, (latents, timestep, conditioning))
    with intercept_attention(model, FAMILY.sites(model.config), stock_attention):
        actual = forward(model, (latents, timestep, conditioning))
    assert torch.equal(actual, expected)


def test_handler_sees_each_site_once_with_its_tensors(model):
    seen = []

    def record(site, query, key, value, scale):
        seen.append((site.name, query.shape, key.shape, value.shape, scale))
        return stock_attention(site, query, key, value, scale)

    with intercept_attention(model, FAMILY.sites(model.config), record):
        forward(model, tiny_wan_inputs(3))
    shape = (3, 128, 2, 64)
    assert seen == [(f"blocks.{i}.attn1", shape, shape, shape, 0.125) for i in range(2)]


def test_result_of_the_handler_is_what_the_model_uses(model):
    inputs = tiny_wan_inputs(1)
    expected = forward(model, inputs)
    with intercept_attention(
        model, FAMILY.sites(model.config)[:1], lambda *tensors: tensors[3] * 0 + 1
    ):
        changed = forward(model, inputs)
    assert not torch.allclose(changed, expected, atol=1e-2)


def test_nothing_is_left_behind(model):
    inputs = tiny_wan_inputs(1)
    expected = forward(model, inputs)
    with (
        pytest.raises(RuntimeError, match="handler"),
        intercept_attention(model, FAMILY.sites(model.config), _failing),
    ):
        forward(model, inputs)
    # A hook that stayed would run _failing, or refuse the forward for the sites it did not meet.
    assert torch.equal(forward(model, inputs), expected)


def _failing(*_):
    raise RuntimeError("handler")


def test_cross_attention_is_left_alone_after_a_failed_forward(model):
    """The site that was running when an exception passed is not taken for the next one."""
    calls = []

    def fail_first(site, query, key, value, scale):
        calls.append(site.name)
        if len(calls) == 1:
            raise RuntimeError("handler")
        return stock_attention(site, query, key, value, scale)

    with intercept_attention(model, FAMILY.sites(model.config), fail_first):
        with pytest.raises(RuntimeError):
            forward(model, tiny_wan_inputs(1))
        F.scaled_dot_product_attention(*(torch.ones(1, 2, 7, 64) for _ in range(3)))
        forward(model, tiny_wan_inputs(1))
    assert calls == ["blocks.0.attn1", "blocks.0.attn1", "blocks.1.attn1"]


def test_refuses_an_attention_that_bypasses_torch():
    model = tiny_wan()
    for block in model.blocks:
        block.attn1.processor = lambda _attn, hidden_states, *_: hidden_states
    with (
        intercept_attention(model, FAMILY.sites(model.config), stock_attention),
        pytest.raises(ModelError, match=r"2 of 2, first blocks\.0\.attn1.*set_attention_backend"),
    ):
        forward(model, tiny_wan_inputs(1))


def test_refuses_a_mask(model):
    tokens = torch.ones(1, 128, 128)
    with (
        intercept_attention(model, FAMILY.sites(model.config), stock_attention),
        pytest.raises(ModelError, match="no mask"),
    ):
        model.blocks[0].attn1(tokens, None, torch.ones(128, 128, dtype=torch.bool), None)


def test_refuses_attention_of_another_shape(model):
    cross_attention = AttentionSite("blocks.0.attn2", heads=2, kv_heads=2, head_dim=64)
    with (
        intercept_attention(model, [cross_attention], stock_attention),
        pytest.raises(ModelError, match=r"self-attention with .* got .*\(2, 5, 64\)"),
    ):
        forward(model, tiny_wan_inputs(1))
