"""The public call, the torch op and the mask helpers."""

from __future__ import annotations

import numpy as np
import torch

from paro_trt.op import api
from paro_trt.op.mask import pack_block_mask, unpack_block_mask
from paro_trt.op.reference import paro_attention_reference
from tests.support.cases import OpCase, random_inputs

CASE = OpCase("api", 200, batch=2, bins=2).with_bits(8, 8, True)


def arguments(inputs):
    c = CASE.config
    return (*inputs, c.scale, c.block_q, c.block_k, c.qk_bits, c.pv_bits, 1, "reference")


def test_public_call_and_torch_op_are_the_reference(fresh_seed):
    inputs = random_inputs(CASE, fresh_seed)
    expected = paro_attention_reference(inputs, CASE.config)
    c = CASE.config
    public = api.paro_attention(
        *inputs, block_q=c.block_q, block_k=c.block_k, qk_bits=8, pv_bits=8, pool_dropped=1
    )
    assert torch.equal(public, expected)
    assert torch.equal(torch.ops.paro.attention(*arguments(inputs)), expected)


def test_scale_attribute_replaces_the_default(fresh_seed):
    inputs = random_inputs(CASE, fresh_seed)
    c = CASE.config
    names = {"block_q": c.block_q, "block_k": c.block_k, "qk_bits": 16, "pv_bits": 16}
    default = api.paro_attention(*inputs, **names)
    assert torch.equal(default, api.paro_attention(*inputs, **names, scale=64**-0.5))
    assert not torch.allclose(default, api.paro_attention(*inputs, **names, scale=0.5))


def test_torch_op_passes_opcheck(fresh_seed):
    inputs = random_inputs(OpCase("opcheck", 70), fresh_seed)
    torch.library.opcheck(
        api.attention_op,
        (*inputs, 0.0, 128, 64, 16, 16, 0, "reference"),
        test_utils=("test_schema", "test_faketensor"),
    )


def test_mask_round_trip_and_bit_places(fresh_seed):
    mask = np.random.default_rng(fresh_seed).random((2, 3, 5, 70)) < 0.3
    words = pack_block_mask(mask)
    assert words.shape == (2, 3, 5, 3)
    assert words.dtype == np.int32
    np.testing.assert_array_equal(unpack_block_mask(words, 70), mask)
    only = np.zeros((1, 1, 1, 70), bool)
    only[..., 37] = True
    assert pack_block_mask(only).tolist() == [[[[0, 1 << 5, 0]]]]
