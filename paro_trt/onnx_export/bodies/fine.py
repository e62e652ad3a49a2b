"""Fine key blocks in ONNX: groups of four summary tokens, quantized with scales of their own."""

from __future__ import annotations

from typing import NamedTuple

from onnx import TensorProto

from ...op.quantization import SIGNED_LEVELS
from ...op.smoothing import MEAN_BITS
from ...op.spec import FINE_SUMMARIES
from .builder import Value
from .layout import Gathered, KeyLayout
from .mask import is_last, mask_rows
from .quantize import Reduce, preconditioned, quantized
from .smooth import Smoothing
from .stages import Bits, FineKeys, Formals

RUN_WIDTH = 16
"""Tokens of a summary in blocks of 64; in blocks of 128 it has twice as many."""


class Affine(NamedTuple):
    """The rows of channel_affine, FLOAT [Hk, D] each."""

    key_mean: Value
    equalizer: Value
    value_mean: Value
    value_scale: Value


def fine_blocks(layout: KeyLayout, formals: Formals, exact: Value) -> Value:
    """BOOL [B, H, NQ, N]: blocks with a token that are fine and not exact."""
    assert formals.fine_mask is not None  # the function has this feature
    used = layout.graph.attribute("fine_summaries", int).cast(TensorProto.INT32)
    marked = mask_rows(layout.graph, formals.fine_mask * used, formals.mask_bin, layout.sizes)
    return marked & (layout.tokens_in_block > 0.0).unsqueeze(1, 2) & ~exact


def fine_keys(
    layout: KeyLayout,
    gathered: Gathered,
    fine: Value,
    affine: Affine,
    qk: Bits,
    pv: Bits,
    smoothed: tuple[Smoothing, Value] | None,
) -> FineKeys:
    """The groups of all blocks; fine: of `fine_blocks`; smoothed: with the rotated keys."""
    graph = layout.graph

    def means(blocks: Value) -> Value:
        return layout.run_means(layout.present(blocks), FINE_SUMMARIES, RUN_WIDTH)[0]

    def by_group(x: Value, reduce: Reduce) -> Value:
        return reduce(x, 3, 4)

    def key() -> Value:
        moved = preconditioned(gathered.key, affine.key_mean, affine.equalizer)
        return quantized(graph, means(moved), qk.levels, by_group).values()

    def plain_key() -> Value:
        return graph.choose(qk.unquantized, lambda: gathered.stored(means(gathered.key)), key)

    def smoothed_key(smoothing: Smoothing, rotated: Value) -> Value:
        levels = graph.constant(float(SIGNED_LEVELS[MEAN_BITS]))
        codes = quantized(graph, means(rotated), levels, by_group)
        return smoothing.of_summaries(codes.values())

    def any_key() -> Value:
        if smoothed is None:
            return plain_key()
        return smoothed[0].or_plain(lambda: smoothed_key(*smoothed), plain_key)

    def value() -> Value:
        moved = preconditioned(gathered.value, affine.value_mean, affine.value_scale)
        # Values have 8 bits where the call's have 4.
        levels = graph.constant(float(SIGNED_LEVELS[8]))
        codes = quantized(graph, means(moved), levels, by_group).values()
        return codes * affine.value_scale.unsqueeze(1, 2) + affine.value_mean.unsqueeze(1, 2)

    return FineKeys(
        key=any_key(),
        value=graph.choose(pv.unquantized, lambda: gathered.stored(means(gathered.value)), value),
        value_mean=graph.where(pv.unquantized, 0.0, affine.value_mean),
        attended=fine | is_last(graph, layout.sizes),
        bias=graph.op("Log", layout.tokens_in_run(FINE_SUMMARIES)),
    )
