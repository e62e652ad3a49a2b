"""The op on one head and a few query blocks, through the reference's own stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..op.blocks import Precision, prepare_keys
from ..op.quantization import ChannelAffine
from ..op.reference import attend_query_block
from ..op.spec import AttentionConfig
from .inputs import HeadInputs


class PlannedHead(NamedTuple):
    """What a plan says of one head.

    order: int64 [S]; mask: bool [NQ, NK]; affine: rows of channel_affine of its key head.
    """

    order: Tensor
    mask: Tensor
    affine: ChannelAffine


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
        config: block sizes, bits and pooling; the scale is that of the inputs.
        query_blocks: which query blocks.
    """
    config = replace(config, scale=inputs.scale)
    precision = Precision(torch.float32, inputs.query.dtype)
    key, value = inputs.key[head.order], inputs.value[head.order]
    keys = prepare_keys(key, value, inputs.length, head.affine, config, precision)
    outputs = []
    for index in query_blocks:
        rows = _block_tokens(inputs, head.order, index, config.block_q)
        query = inputs.query[rows].float() * head.affine.equalizer
        sources = keys.attended_by(head.mask[index])
        outputs.append(attend_query_block(query, sources, head.affine, config, precision))
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
