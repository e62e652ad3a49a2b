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
from .statistics import HeadSample


class PlannedHead(NamedTuple):
    """What a plan says of one head.

    order: int64 [S]; mask: bool [NQ, NK]; affine: rows of channel_affine of its key head.
    """

    order: Tensor
    mask: Tensor
    affine: ChannelAffine


def identity_affine(head_dim: int) -> ChannelAffine:
    """The channel affine that changes nothing."""
    zeros, ones = torch.zeros(head_dim), torch.ones(head_dim)
    return ChannelAffine(zeros, ones, zeros, ones)


def attended_rows(
    sample: HeadSample, head: PlannedHead, config: AttentionConfig, query_blocks: Sequence[int]
) -> Tensor:
    """The op's output f32 [rows, D] for the tokens of some query blocks, in the head's order.

    Args:
        sample: the head's inputs, on the CPU.
        head: order, mask and affine; the affine must be the identity where bits are 16.
        config: block sizes, bits and pooling; the scale is the sample's.
        query_blocks: which query blocks.
    """
    config = replace(config, scale=sample.scale)
    precision = Precision(torch.float32, sample.query.dtype)
    key, value = sample.key[head.order], sample.value[head.order]
    keys = prepare_keys(key, value, sample.length, head.affine, config, precision)
    outputs = []
    for index in query_blocks:
        rows = _block_tokens(sample, head.order, index, config.block_q)
        query = sample.query[rows].float() * head.affine.equalizer
        sources = keys.attended_by(head.mask[index])
        outputs.append(attend_query_block(query, sources, head.affine, config, precision))
    return torch.cat(outputs)


def dense_rows(
    sample: HeadSample, order: Tensor, block_q: int, query_blocks: Sequence[int]
) -> Tensor:
    """Dense attention f32 [rows, D] of the same tokens as `attended_rows`."""
    rows = torch.cat([_block_tokens(sample, order, index, block_q) for index in query_blocks])
    kept = order[: sample.length]
    logits = sample.query[rows].float() @ sample.key[kept].float().T * sample.scale
    return logits.softmax(dim=1) @ sample.value[kept].float()


def _block_tokens(sample: HeadSample, order: Tensor, index: int, block_q: int) -> Tensor:
    return order[index * block_q : min((index + 1) * block_q, sample.length)]
