"""Version 2 of the op in the native CPU backend, on every instruction set of this processor."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from paro_trt.op import native
from paro_trt.op.api import paro_attention
from paro_trt.op.reference import paro_attention_reference
from paro_trt.op.spec import AttentionConfig, AttentionInputs
from tests.plugins.cpu_instruction_sets import assert_each_isa_is_right, forward_on_each_isa
from tests.support.cases import BIT_PAIRS, VERSION_2_CASES, OpCase, at_bits, random_inputs

VERSION_1 = AttentionConfig(block_q=64, block_k=64, pool_dropped=True)
FINE = replace(VERSION_1, fine_summaries=True)
CORRECTED = replace(VERSION_1, mean_correction=True)
ROUTED = replace(VERSION_1, routing=True)
ALL = replace(FINE, mean_correction=True, routing=True)
SHORT_PAIRS = ((16, 16), (8, 8), (8, 4))
BITS = pytest.mark.parametrize("bits", SHORT_PAIRS, ids=lambda b: f"qk{b[0]}-pv{b[1]}")


@pytest.fixture(scope="module")
def library() -> native.NativeLibrary:
    return native.load_library(native.library_path("cpu"))


def inputs_of(config: AttentionConfig, seed: int, **changes: object) -> AttentionInputs:
    case = OpCase("version-2", 331, heads=4, kv_heads=2, density=0.2, config=config)
    return random_inputs(replace(case, **changes), seed)


def version_1(inputs: AttentionInputs, **changes: torch.Tensor) -> AttentionInputs:
    """The same call without what version 2 adds."""
    added = dict.fromkeys(("fine_mask", "corrected_heads", "dynamic_blocks"))
    return inputs._replace(**added)._replace(**changes)


def filled(tensor: torch.Tensor, value: int) -> torch.Tensor:
    return torch.full_like(tensor, value)


def pairs_of(index: int) -> list[object]:
    """Three pairs of bits of a case in every run; the others in long ones. Any three cases in a row
    have all nine."""
    short = {BIT_PAIRS[(index + 3 * i) % len(BIT_PAIRS)] for i in range(3)}
    return [
        pytest.param(*pair, marks=() if pair in short else pytest.mark.long) for pair in BIT_PAIRS
    ]


@pytest.mark.parametrize(
    ("case", "qk_bits", "pv_bits"),
    [
        pytest.param(case, *pair.values, marks=pair.marks,
                     id="{}-qk{}-pv{}".format(case.name, *pair.values))
        for index, case in enumerate(VERSION_2_CASES)
        for pair in pairs_of(index)
    ],
)  # fmt: skip
def test_every_case_equals_the_reference(case, qk_bits, pv_bits, library, fresh_seed):
    case = at_bits(case, qk_bits, pv_bits)
    assert_each_isa_is_right(library, random_inputs(case, fresh_seed), case.config)


@BITS
def test_unused_features_change_nothing(bits, library, fresh_seed):
    config = replace(ALL, qk_bits=bits[0], pv_bits=bits[1])
    plain = replace(config, fine_summaries=False, mean_correction=False, routing=False)
    inputs = inputs_of(config, fresh_seed)
    zeros = inputs._replace(
        fine_mask=filled(inputs.fine_mask, 0),
        corrected_heads=filled(inputs.corrected_heads, 0),
        dynamic_blocks=filled(inputs.dynamic_blocks, 0),
    )
    expected = dict(forward_on_each_isa(library, version_1(inputs), plain))
    for isa, output in forward_on_each_isa(library, zeros, config):
        assert torch.equal(output, expected[isa]), isa


def test_a_block_in_both_planes_is_exact(library, fresh_seed):
    inputs = inputs_of(FINE, fresh_seed)
    both = inputs._replace(fine_mask=inputs.block_mask)
    expected = dict(forward_on_each_isa(library, version_1(inputs), VERSION_1))
    for isa, output in forward_on_each_isa(library, both, FINE):
        assert torch.equal(output, expected[isa]), isa


def test_a_chosen_block_that_is_fine_is_exact(library, fresh_seed):
    config = replace(FINE, routing=True)
    inputs = inputs_of(config, fresh_seed)
    every = inputs._replace(
        block_mask=filled(inputs.block_mask, 0),
        fine_mask=filled(inputs.fine_mask, 63),
        dynamic_blocks=filled(inputs.dynamic_blocks, 6),
    )
    dense = version_1(inputs, block_mask=filled(inputs.block_mask, 63))
    expected = dict(forward_on_each_isa(library, dense, VERSION_1))
    for isa, output in forward_on_each_isa(library, every, config):
        assert torch.equal(output, expected[isa]), isa


@pytest.mark.parametrize(("count", "exact"), [(7, 63), (2**31 - 1, 63), (-1, 0), (-(2**31), 0)])
def test_counts_of_chosen_blocks_are_clamped(count, exact, library, fresh_seed):
    inputs = inputs_of(ROUTED, fresh_seed)
    inputs = inputs._replace(
        block_mask=filled(inputs.block_mask, 0),
        dynamic_blocks=filled(inputs.dynamic_blocks, count),
    )
    output = paro_attention(*inputs, **ROUTED.keywords(), impl="cpu", check_values=False)
    chosen = version_1(inputs, block_mask=filled(inputs.block_mask, exact))
    assert torch.equal(output, library.forward(chosen, VERSION_1))


def test_only_flagged_heads_are_corrected(library, fresh_seed):
    inputs = inputs_of(CORRECTED, fresh_seed)
    flags = torch.tensor([0, 1, 0, -7], dtype=torch.int32)  # other than 0 is corrected
    expected = dict(forward_on_each_isa(library, version_1(inputs), VERSION_1))
    for isa, output in forward_on_each_isa(
        library, inputs._replace(corrected_heads=flags), CORRECTED
    ):
        changed = (output != expected[isa]).any(dim=3)
        assert changed[..., [1, 3]].all(), isa
        assert not changed[..., [0, 2]].any(), isa


@BITS
def test_dense_rows_are_not_changed_by_their_correction(bits, library, fresh_seed):
    """Both attentions of a correction are the same computation, up to rounding and code edges."""
    config = replace(CORRECTED, qk_bits=bits[0], pv_bits=bits[1])
    inputs = inputs_of(config, fresh_seed)
    inputs = inputs._replace(
        corrected_heads=filled(inputs.corrected_heads, 1),
        block_mask=filled(inputs.block_mask, 63),
    )
    plain = replace(config, mean_correction=False)
    expected = dict(forward_on_each_isa(library, version_1(inputs), plain))
    edge = 0 if bits[1] == 16 else 2 * float(inputs.value.abs().max()) / 255
    for isa, output in forward_on_each_isa(library, inputs, config):
        torch.testing.assert_close(output, expected[isa], rtol=0, atol=1e-5 + edge, msg=isa)


@pytest.mark.parametrize("config", [CORRECTED, ROUTED], ids=["corrected", "routed"])
def test_nothing_to_attend_stays_zeros(config, library, fresh_seed):
    config = replace(config, pool_dropped=False)
    inputs = inputs_of(config, fresh_seed)
    inputs = inputs._replace(block_mask=filled(inputs.block_mask, 0))
    if config.routing:
        inputs = inputs._replace(dynamic_blocks=filled(inputs.dynamic_blocks, 0))
    for isa, output in forward_on_each_isa(library, inputs, config):
        assert not output.any(), isa


@pytest.mark.parametrize(("count", "exact"), [(1, 0b00011), (2, 0b00111), (3, 0b01111)])
def test_ties_go_to_the_lower_index(count, exact, library, fresh_seed):
    """All estimated errors are 0: tokens cancel in every run of 16. Block 1 is exact anyway.
    Within a block they do not cancel: its keys and values have the same signs."""
    inputs = inputs_of(ROUTED, fresh_seed, heads=2, kv_heads=2)
    sign = torch.ones(331)
    sign[1::2] = -1.0
    sign[320:] = 0.0  # a run that is cut short
    key, value = torch.zeros_like(inputs.key), torch.zeros_like(inputs.value)
    for head in range(2):
        order = inputs.token_order[int(inputs.head_order[head])].long()
        key[0, order, head, 0] = sign
        value[0, order, head, 0] = sign * (1.0 + torch.arange(331) // 64)
    inputs = inputs._replace(
        key=key,
        value=value,
        block_mask=filled(inputs.block_mask, 0b00010),
        dynamic_blocks=filled(inputs.dynamic_blocks, count),
    )
    chosen = version_1(inputs, block_mask=filled(inputs.block_mask, exact))
    expected = dict(forward_on_each_isa(library, chosen, VERSION_1))
    for isa, output in forward_on_each_isa(library, inputs, ROUTED):
        assert torch.equal(output, expected[isa]), isa


def test_rows_that_do_not_exist_choose_nothing(library, fresh_seed):
    """The last query block has one row, which attends blocks 1 and 3. Rows of zeros attend all
    blocks alike, and would lose most without block 0."""
    config = replace(ROUTED, pool_dropped=False)
    inputs = inputs_of(config, fresh_seed, tokens=321, heads=1, kv_heads=1)
    query, key, value = (torch.zeros_like(x) for x in inputs[:3])
    order = inputs.token_order[int(inputs.head_order[0])].long()
    block = torch.arange(321) // 64
    query[..., 0] = 8.0
    key[0, order, 0, 0] = 8.0 * ((block == 1) | (block == 3))
    value[0, order, 0, 0] = (block == 1).float() - (block == 3).float()
    value[0, order, 0, 1] = 100.0 * (block == 0)
    inputs = inputs._replace(
        query=query,
        key=key,
        value=value,
        block_mask=filled(inputs.block_mask, 0),
        dynamic_blocks=filled(inputs.dynamic_blocks, 2),
    )
    chosen = version_1(inputs, block_mask=filled(inputs.block_mask, 0b01010))
    plain = replace(config, routing=False)
    expected = dict(forward_on_each_isa(library, chosen, plain))
    for isa, output in forward_on_each_isa(library, inputs, config):
        assert torch.equal(output, expected[isa]), isa


@BITS
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["query", "key", "value"])
def test_non_finite_values_stay_where_the_reference_has_them(where, bad, bits, library, fresh_seed):
    case = OpCase("poison", 200, config=replace(ALL, qk_bits=bits[0], pv_bits=bits[1]))
    inputs = random_inputs(case, fresh_seed)
    tensor = getattr(inputs, where).clone()
    tensor[0, 77, 1, 9] = bad
    inputs = inputs._replace(**{where: tensor})
    reference = paro_attention_reference(inputs, case.config)
    for isa, output in forward_on_each_isa(library, inputs, case.config):
        assert torch.equal(output.isfinite(), reference.isfinite()), isa


@BITS
def test_threads_do_not_change_a_bit(bits, library, fresh_seed):
    config = replace(ALL, qk_bits=bits[0], pv_bits=bits[1])
    inputs = inputs_of(config, fresh_seed)
    expected = library.forward(inputs, config, 1)
    for threads in (2, 5):
        assert torch.equal(library.forward(inputs, config, threads), expected)


def test_masks_with_padding_bits_are_refused(library, fresh_seed):
    inputs = inputs_of(FINE, fresh_seed)
    bad = inputs._replace(fine_mask=filled(inputs.fine_mask, 64))
    with pytest.raises(native.NativeError, match="fine_mask: expected no bit set at or past"):
        library.forward(bad, FINE)
