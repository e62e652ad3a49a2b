"""One table of op cases, by intent: every implementation of the op is tested on each of them."""

from __future__ import annotations

import itertools
from dataclasses import replace

import torch

from paro_trt.bench.case import OpCase
from paro_trt.bench.case import random_inputs as any_random_inputs
from paro_trt.op.mask import unpack_block_mask
from paro_trt.op.routing import estimated_errors
from paro_trt.op.spec import AttentionConfig, AttentionInputs, block_count, op_inputs

__all__ = [
    "BIT_PAIRS", "CASES", "SMOOTHED_CASES", "VERSION_2_CASES", "OpCase", "at_bits", "node_inputs",
    "random_inputs",
]  # fmt: skip

BIT_PAIRS = tuple((qk, pv) for qk in (16, 8, 4) for pv in (16, 8, 4))

_WIDE_KEYS = AttentionConfig(block_q=64, block_k=128)
_SQUARE = AttentionConfig(block_q=64, block_k=64)

CASES: tuple[OpCase, ...] = (
    OpCase("regular", 512),
    OpCase("head-dim-128", 256, head_dim=128, config=_SQUARE),
    OpCase("wide-key-blocks", 512, config=_WIDE_KEYS),
    OpCase("ragged", 331, config=_SQUARE),
    OpCase("grouped-queries", 300, heads=4, kv_heads=2, config=_SQUARE),
    OpCase("bins-per-sample", 256, batch=3, bins=3, config=_SQUARE),
    OpCase("padded", 320, batch=3, key_length=(320, 193, 64), config=_SQUARE),
    OpCase("all-padding", 200, batch=2, key_length=(0, 200), config=_SQUARE),
    OpCase("empty-rows", 384, empty_rows=True, config=_SQUARE),
    OpCase("one-head-one-block", 40, heads=1, kv_heads=1),
    OpCase("one-token", 1, heads=1, kv_heads=1),
    OpCase("full-density", 300, density=1.0),
    OpCase("half-precision", 256, dtype=torch.float16),
    OpCase("bfloat16", 256, dtype=torch.bfloat16),
)

_FINE = AttentionConfig(block_q=64, block_k=64, pool_dropped=True, fine_summaries=True)
_CORRECTED = AttentionConfig(block_q=64, block_k=64, pool_dropped=True, mean_correction=True)
_ROUTED = AttentionConfig(block_q=64, block_k=64, pool_dropped=True, routing=True)
_ALL = replace(_FINE, mean_correction=True, routing=True)
_ALL_WIDE = replace(_ALL, block_k=128)
_ALL_TALL = replace(_ALL, block_q=128)

VERSION_2_CASES: tuple[OpCase, ...] = (
    OpCase("fine", 512, config=_FINE),
    OpCase("fine-steps", 64 * 44 + 5, density=0.1, config=_FINE),
    OpCase("fine-wide-ragged", 331, config=replace(_FINE, block_k=128)),
    OpCase("fine-padded", 320, batch=3, key_length=(320, 193, 0), config=_FINE),
    OpCase("corrected", 331, heads=4, kv_heads=2, config=_CORRECTED),
    OpCase("corrected-dropped", 331, config=replace(_CORRECTED, block_q=128, pool_dropped=False)),
    OpCase("corrected-empty-rows", 384, empty_rows=True,
           config=replace(_CORRECTED, pool_dropped=False)),
    OpCase("routed", 512, heads=4, kv_heads=2, density=0.1, config=_ROUTED),
    OpCase("routed-dropped", 331, empty_rows=True, config=replace(_ROUTED, pool_dropped=False)),
    OpCase("routed-wide", 500, batch=2, bins=2, density=0.1, key_length=(500, 77),
           config=replace(_ROUTED, block_q=128, block_k=128)),
    OpCase("one-block", 40, config=_ALL_TALL),
    OpCase("all", 331, batch=2, bins=2, heads=4, kv_heads=2, density=0.2, config=_ALL),
    OpCase("all-head-dim-128", 400, head_dim=128, density=0.2, config=_ALL_TALL),
    OpCase("all-wide-padded", 520, batch=3, bins=2, key_length=(520, 130, 1), density=0.2,
           config=_ALL_WIDE),
    OpCase("all-half-precision", 331, density=0.2, dtype=torch.float16, config=_ALL),
    OpCase("all-bfloat16", 331, density=0.2, dtype=torch.bfloat16, config=_ALL_WIDE),
)  # fmt: skip
"""Calls of version 2 of the op: each feature alone, then all."""

_SMOOTHED = AttentionConfig(block_q=64, block_k=64, qk_bits=4, pv_bits=8, smoothing=True)
_SMOOTHED_POOLED = replace(_SMOOTHED, pool_dropped=True)
_SMOOTHED_ALL = replace(_ALL, qk_bits=4, pv_bits=8, smoothing=True)

SMOOTHED_CASES: tuple[OpCase, ...] = (
    OpCase("smoothed", 512, config=_SMOOTHED),
    OpCase("smoothed-pooled", 331, heads=4, kv_heads=2, config=_SMOOTHED_POOLED),
    OpCase("smoothed-tall-wide", 400, head_dim=128, bins=2, batch=2, key_length=(400, 77),
           config=replace(_SMOOTHED_POOLED, block_q=128, block_k=128)),
    OpCase("smoothed-half-precision", 331, dtype=torch.float16, config=_SMOOTHED_POOLED),
    OpCase("smoothed-bfloat16", 331, head_dim=128, dtype=torch.bfloat16,
           config=replace(_SMOOTHED, block_q=128)),
    OpCase("smoothed-padded", 320, batch=3, key_length=(320, 193, 0), empty_rows=True,
           config=_SMOOTHED),
    OpCase("smoothed-one-token", 1, heads=1, kv_heads=1, config=_SMOOTHED_POOLED),
    OpCase("smoothed-many-summaries", 64 * 70 + 9, heads=1, kv_heads=1, density=0.05,
           config=_SMOOTHED_POOLED),
    OpCase("smoothed-all", 331, batch=2, bins=2, heads=4, kv_heads=2, density=0.2,
           config=_SMOOTHED_ALL),
    OpCase("smoothed-all-tall-wide", 520, head_dim=128, batch=2, key_length=(520, 130),
           density=0.2, dtype=torch.float16,
           config=replace(_SMOOTHED_ALL, block_q=128, block_k=128)),
)  # fmt: skip
"""Calls with smoothed 4-bit query x key; values have 8 bits, and other widths by `at_bits`."""


def at_bits(case: OpCase, qk_bits: int, pv_bits: int) -> OpCase:
    """The same case at other bit widths, pooled or not as it is."""
    return case.with_bits(qk_bits, pv_bits, case.config.pool_dropped)


def random_inputs(case: OpCase, seed: int) -> AttentionInputs:
    """Fresh inputs of a case. Blocks that are chosen at run time are chosen clearly: rounding
    cannot change which ones, so that implementations can be compared."""
    while True:
        inputs = any_random_inputs(case, seed)
        if not case.config.routing or _chosen_clearly(inputs, case.config):
            return inputs
        seed += 1_000_003


def node_inputs(inputs: AttentionInputs, version: int) -> list[torch.Tensor]:
    """The tensors of a node of this version; zeros for what version 2 has and the call has not."""
    shape = inputs.block_mask.shape
    unused = {
        "fine_mask": shape,
        "corrected_heads": shape[1:2],
        "dynamic_blocks": shape[:2],
        "rotation": inputs.channel_affine.shape[1:],
    }
    tensors = [getattr(inputs, entry.name) for entry in op_inputs(version)]
    return [
        torch.zeros(unused[entry.name], dtype=torch.int32) if tensor is None else tensor
        for entry, tensor in zip(op_inputs(version), tensors, strict=True)
    ]


def _chosen_clearly(inputs: AttentionInputs, config: AttentionConfig) -> bool:
    """Whether the last chosen and the first other block of every row differ by a thousandth."""
    batch, tokens, heads, _ = inputs.query.shape
    group = heads // inputs.key.shape[2]
    bits = unpack_block_mask(inputs.block_mask.numpy(), block_count(tokens, config.block_k))
    for sample, head in itertools.product(range(batch), range(heads)):
        length, mask_bin = int(inputs.key_length[sample]), int(inputs.mask_bin[sample])
        count = int(inputs.dynamic_blocks[mask_bin, head])
        if length == 0 or count == 0:
            continue
        order = inputs.token_order[int(inputs.head_order[head])].long()[:length]
        x = (inputs.query[:, :, head], inputs.key[:, :, head // group],
             inputs.value[:, :, head // group])  # fmt: skip
        errors = estimated_errors(*(part[sample, order] for part in x), config, torch.float64)
        mask = torch.from_numpy(bits[mask_bin, head])[: len(errors), : errors.shape[1]]
        ranked = errors.masked_fill(mask, 0.0).sort(dim=1, descending=True).values
        if count < ranked.shape[1]:
            last, other = ranked[:, count - 1], ranked[:, count]
            if bool(((other > 0) & (last - other < 1e-3 * last)).any()):
                return False
    return True
