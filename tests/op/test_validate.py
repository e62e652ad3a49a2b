"""Every argument that breaks the contract is refused by name."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from paro_trt.errors import ArgumentError, BackendUnavailableError
from paro_trt.op.api import paro_attention
from paro_trt.op.spec import INPUTS, AttentionConfig, AttentionInputs
from paro_trt.op.validate import validate
from tests.support.cases import CASES, OpCase, random_inputs

CASE = OpCase("validate", 200, batch=2, heads=4, kv_heads=2, bins=2, config=AttentionConfig(64, 64))


@pytest.fixture
def inputs(fresh_seed) -> AttentionInputs:
    return random_inputs(CASE, fresh_seed)


def changed(tensor: torch.Tensor, index: tuple[int, ...], value: float) -> torch.Tensor:
    tensor = tensor.clone()
    tensor[index] = value
    return tensor


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_cases_pass(case, fresh_seed):
    shape = validate(random_inputs(case, fresh_seed), case.config)
    assert (shape.batch, shape.tokens, shape.heads) == (case.batch, case.tokens, case.heads)


@pytest.mark.parametrize("spec", INPUTS, ids=lambda s: s.name)
def test_wrong_dtype_rank_and_shape_name_the_input(spec, inputs):
    tensor = getattr(inputs, spec.name)
    for bad in (tensor.to(torch.float64), tensor[None], torch.cat([tensor, tensor], dim=-1)):
        with pytest.raises(ArgumentError, match="expected") as caught:
            validate(inputs._replace(**{spec.name: bad}), CASE.config)
        # A query of another shape makes the tensors measured by it wrong instead.
        assert spec.name == "query" or caught.value.subject == spec.name
    with pytest.raises(ArgumentError, match=r"torch\.Tensor"):
        validate(inputs._replace(**{spec.name: None}), CASE.config)


@pytest.mark.parametrize(
    ("name", "index", "value"),
    [
        ("token_order", (0, 5), 200),
        ("token_order", (1, 5), -1),
        ("head_order", (2,), 3),
        ("head_order", (2,), -1),
        ("tile_order", (0, 0), 99),
        ("key_length", (1,), 201),
        ("key_length", (0,), -1),
        ("block_mask", (1, 0, 0, 0), 1 << 4),
        ("block_mask", (1, 0, 0, 0), -1),
        ("channel_affine", (1, 0, 0), 0.0),
        ("channel_affine", (3, 1, 7), -1.0),
        ("channel_affine", (0, 1, 7), math.nan),
        ("channel_affine", (2, 1, 7), math.inf),
    ],
)
def test_wrong_values_name_the_input(name, index, value, inputs):
    tensor = getattr(inputs, name)
    if name == "head_order":
        tensor = torch.zeros_like(tensor)
    bad = inputs._replace(**{name: changed(tensor, index, value)})
    with pytest.raises(ArgumentError) as caught:
        validate(bad, CASE.config)
    assert caught.value.subject == name
    validate(bad, CASE.config, check_values=False)


def test_repeated_token_is_no_permutation(inputs):
    bad = inputs.token_order.clone()
    bad[2, 0] = bad[2, 1]
    with pytest.raises(ArgumentError, match=r"token_order: .*row 2"):
        validate(inputs._replace(token_order=bad), CASE.config)


def test_heads_of_a_group_share_their_order(inputs):
    bad = torch.tensor([0, 1, 2, 2], dtype=torch.int32)
    with pytest.raises(ArgumentError, match="one order for all query heads"):
        validate(inputs._replace(head_order=bad), CASE.config)


def test_heads_that_do_not_divide(inputs):
    bad = inputs._replace(
        key=inputs.key[:, :, [0, 1, 1]],
        value=inputs.value[:, :, [0, 1, 1]],
        channel_affine=inputs.channel_affine[:, [0, 1, 1]],
    )
    with pytest.raises(ArgumentError, match="kv_heads: expected a divisor of 4 heads, got 3"):
        validate(bad, CASE.config)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("block_q", 32),
        ("block_k", 0),
        ("qk_bits", 5),
        ("pv_bits", 32),
        ("scale", -1.0),
        ("scale", math.nan),
        ("pool_dropped", 2),
    ],
)
def test_wrong_attribute_is_named(name, value, inputs):
    with pytest.raises(ArgumentError) as caught:
        validate(inputs, replace(CASE.config, **{name: value}))
    assert caught.value.subject == name


def call(inputs: AttentionInputs, impl: str) -> torch.Tensor:
    config = CASE.config
    return paro_attention(
        *inputs, block_q=config.block_q, block_k=config.block_k, qk_bits=16, pv_bits=16, impl=impl
    )


@pytest.mark.parametrize("impl", ["cuda", "emulated"])
def test_an_implementation_that_is_not_built_refuses(impl, inputs, tmp_path, monkeypatch):
    monkeypatch.setenv("PARO_LIBRARY_DIR", str(tmp_path))
    with pytest.raises(BackendUnavailableError, match=impl):
        call(inputs, impl)


def test_unknown_implementation_lists_the_names(inputs):
    with pytest.raises(ArgumentError, match="reference, cpu, cuda, emulated"):
        call(inputs, "fast")


def test_inputs_off_the_cpu_are_refused(inputs):
    on_meta = inputs.converted(lambda tensor: tensor.to("meta"))
    sizes = {"block_q": CASE.config.block_q, "block_k": CASE.config.block_k}
    with pytest.raises(BackendUnavailableError, match="query"):
        paro_attention(*on_meta, **sizes, qk_bits=16, pv_bits=16, impl="cpu", check_values=False)
