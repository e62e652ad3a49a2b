"""The op on one head and a few query blocks, through the reference's own stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..op.blocks import KeyBlocks, Precision, prepare_keys
from ..op.quantization import ChannelAffine
from ..op.reference import attend_query_block, prepare_mean_query, prepare_query_block
from ..op.routing import route_head
from ..op.smoothing import QueryRows
from ..op.spec import CORRECTION_ROWS, AttentionConfig
from .inputs import HeadInputs
from .select_mask import LayerMasks


class HeadExtras(NamedTuple):
    """What version 2 adds to a head in one bin; the last fields of `PlannedHead`."""

    fine: Tensor | None = None
    dynamic_blocks: int = 0
    corrected: bool = False


def head_extras(masks: LayerMasks, mask_bin: int, device: torch.device) -> list[HeadExtras]:
    """The extras of each head of a layer in one bin."""
    fine, dynamic, corrected = masks.fine, masks.dynamic_blocks, masks.corrected_heads
    return [
        HeadExtras(
            None if fine is None else torch.from_numpy(fine[mask_bin, head]).to(device),
            0 if dynamic is None else int(dynamic[mask_bin, head]),
            corrected is not None and bool(corrected[head]),
        )
        for head in range(masks.mask.shape[1])
    ]


class PlannedHead(NamedTuple):
    """What a plan says of one head.

    order: int64 [S]; mask, fine: bool [NQ, NK], exact and fine blocks; affine: rows of
    channel_affine of its key head; dynamic_blocks: chosen by each query block at run time;
    corrected: rows get what their mean query lacks; signs: of the rotation of a smoothed head,
    int32 [D], None for none.
    """

    order: Tensor
    mask: Tensor
    affine: ChannelAffine
    fine: Tensor | None = None
    dynamic_blocks: int = 0
    corrected: bool = False
    signs: Tensor | None = None


def identity_affine(head_dim: int, device: torch.device) -> ChannelAffine:
    """The channel affine that changes nothing."""
    zeros, ones = torch.zeros(head_dim, device=device), torch.ones(head_dim, device=device)
    return ChannelAffine(zeros, ones, zeros, ones)


def attended_rows(
    inputs: HeadInputs, head: PlannedHead, config: AttentionConfig, query_blocks: Sequence[int]
) -> Tensor:
    """The op's output f32 [rows, D] for the tokens of some query blocks, in the head's order.

    Args:
        inputs: the head's inputs; order, mask and affine are on their device.
        head: order, mask and affine; the affine must be the identity where bits are 16.
        config: block sizes, bits and pooling; the scale is that of the inputs, and version 2 that
            of the head.
        query_blocks: which query blocks, ascending.
    """
    config = replace(config, scale=inputs.scale, fine_summaries=head.fine is not None)
    precision = Precision(torch.float32, inputs.query.dtype)
    key, value = inputs.key[head.order], inputs.value[head.order]
    keys = prepare_keys(key, value, inputs.length, head.affine, head.signs, config, precision)
    tokens = [_block_tokens(inputs, head.order, index, config.block_q) for index in query_blocks]
    exact = torch.stack([head.mask[index] for index in query_blocks])
    if head.dynamic_blocks:
        exact = exact | route_head(
            inputs.query[torch.cat(tokens)],
            key[: inputs.length],
            value[: inputs.length],
            exact,
            head.dynamic_blocks,
            config,
            torch.float32,
        )

    def attend(query: QueryRows, sources: list[KeyBlocks]) -> Tensor:
        return attend_query_block(query, sources, head.affine, config, precision)

    outputs = []
    prepared = head.affine, head.signs, config, precision
    for index, rows, mask in zip(query_blocks, tokens, exact, strict=True):
        query = prepare_query_block(inputs.query[rows], *prepared)
        sources = keys.attended_by(mask, None if head.fine is None else head.fine[index])
        output = attend(query, sources)
        if head.corrected and sources:
            run = _block_tokens(
                inputs, head.order, index * config.block_q // CORRECTION_ROWS, CORRECTION_ROWS
            )
            mean = prepare_mean_query(inputs.query[run], *prepared)
            output = output + (attend(mean, keys.all_tokens()) - attend(mean, sources))
        outputs.append(output)
    return torch.cat(outputs)


def dense_rows(
    inputs: HeadInputs, order: Tensor, block_q: int, query_blocks: Sequence[int]
) -> Tensor:
    """Dense attention f32 [rows, D] of the same tokens as `attended_rows`."""
    rows = torch.cat([_block_tokens(inputs, order, index, block_q) for index in query_blocks])
    kept = order[: inputs.length]
    logits = inputs.query[rows].float() @ inputs.key[kept].float().T * inputs.scale
    return logits.softmax(dim=1) @ inputs.value[kept].float()


def _block_tokens(inputs: HeadInputs, order: Tensor, index: int, block_q: int) -> Tensor:
    return order[index * block_q : min((index + 1) * block_q, inputs.length)]
