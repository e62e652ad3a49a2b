"""What each key block contributes to each query row, exactly and by summaries.

From these terms the attention of any choice of blocks is a sum, and so is the error that a choice
leaves: hundreds of policies share the exponentials of one call. Everything is float32.

Notation: T_J = sum over J of P_ij (v_j, 1), J exact, with P the dense softmax; by summaries P_iJ =
exp(scale q_i.k_J + ln n_J - lse_i) takes the place of the sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from paro_trt.calibration.inputs import HeadInputs
from paro_trt.op.spec import CORRECTION_ROWS, FINE_SUMMARIES

from .sources import BLOCK_K, BLOCK_Q, BLOCKS_PER_RUN


class Kind(IntEnum):
    """How a query block attends a key block."""

    DROPPED = 0
    COARSE = 1
    FINE = 2
    EXACT = 3


KEYS = torch.tensor([0.0, 1.0, FINE_SUMMARIES, BLOCK_K])
"""Keys that a query attends of a block, by `Kind`."""


class Choice(NamedTuple):
    """What one head attends in one call.

    order: name of the head's order; kinds: uint8 [n, NK], `Kind` of each judged block of 64 rows
    and key block; corrected: with the mean correction; extra: keys that take as long as what the
    head computes besides, for the average query.
    """

    order: str
    kinds: Tensor
    corrected: bool = False
    extra: float = 0.0

    @property
    def keys(self) -> float:
        """Keys that a query attends on average, summaries included."""
        return float(KEYS[self.kinds.long()].sum(dim=1).mean())


class Terms(NamedTuple):
    """One head of one call in one order.

    parts: [3, NK, n, 64, D + 1], numerator and weight of the coarse, fine and exact contributions
    to the rows of each judged block; mean_parts: [3, NK, n / 2, 1, D + 1], to the mean query of
    each run of 128 rows; dense: [n, 64, D]; mean_dense: [n / 2, 1, D].
    """

    parts: Tensor
    mean_parts: Tensor
    dense: Tensor
    mean_dense: Tensor


def terms(inputs: HeadInputs, order: Tensor, runs: tuple[int, ...]) -> Terms:
    """Contributions of every key block to the rows of the judged runs.

    Args:
        inputs: one head; the number of tokens is a multiple of 128.
        order: int64 [S].
        runs: of 128 rows, in this order.
    """
    channels = inputs.query.shape[1]
    query = inputs.query[order].view(-1, CORRECTION_ROWS, channels)[list(runs)]
    key = inputs.key[order].view(-1, BLOCK_K, channels)
    value = inputs.value[order].view(-1, BLOCK_K, channels)
    keys = _Keys(key, with_ones(value))
    rows = query.reshape(-1, BLOCK_Q, channels)
    parts, dense = keys.contributions(rows * inputs.scale)
    mean_parts, mean_dense = keys.contributions(query.mean(dim=1, keepdim=True) * inputs.scale)
    return Terms(parts, mean_parts, dense, mean_dense)


def with_ones(value: Tensor) -> Tensor:
    """[..., D] -> [..., D + 1]: a sum of weighted rows then has the weights' sum last."""
    return torch.cat([value, value.new_ones(*value.shape[:-1], 1)], dim=-1)


class _Keys(NamedTuple):
    """key: [NK, 64, D]; value: [NK, 64, D + 1]."""

    key: Tensor
    value: Tensor

    def contributions(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """parts [3, NK, n, r, D + 1] and dense output [n, r, D] of rows [n, r, D], scaled."""
        groups, count, channels = rows.shape
        blocks, _, width = self.value.shape
        flat = rows.reshape(1, -1, channels)
        parts = rows.new_empty(3, blocks, flat.shape[1], width)
        logits = torch.matmul(flat, self.key.transpose(1, 2))
        lse = logits.logsumexp(dim=2).logsumexp(dim=0)[:, None]
        torch.bmm(logits.sub_(lse).exp_(), self.value, out=parts[Kind.EXACT - 1])
        for kind, summaries in ((Kind.COARSE, 1), (Kind.FINE, FINE_SUMMARIES)):
            tokens = BLOCK_K // summaries
            means = self.key.view(blocks, summaries, tokens, channels).mean(dim=2)
            values = self.value.view(blocks, summaries, tokens, width).mean(dim=2) * tokens
            weights = torch.matmul(flat, means.transpose(1, 2)).sub_(lse).exp_()
            torch.bmm(weights, values, out=parts[kind - 1])
        total = parts[Kind.EXACT - 1].sum(dim=0)
        dense = (total[:, :-1] / total[:, -1:]).view(groups, count, channels)
        return parts.view(3, blocks, groups, count, width), dense


def attend(terms: Terms, choices: Sequence[Choice]) -> Tensor:
    """Output [C, n, 64, D] of the judged blocks under each of C choices.

    Args:
        terms: of the head, in the order of all the choices.
        choices: with the mean correction, each run of 128 rows gets what its mean query lacks.
    """
    kinds = torch.stack([choice.kinds for choice in choices], dim=1)
    chosen = torch.stack([kinds == kind for kind in (Kind.COARSE, Kind.FINE, Kind.EXACT)], dim=2)
    weights = chosen.flatten(2).to(terms.parts.dtype)
    output = _normalized(weights, terms.parts)
    corrected = [index for index, choice in enumerate(choices) if choice.corrected]
    if corrected:
        mean_parts = terms.mean_parts.repeat_interleave(BLOCKS_PER_RUN, dim=2)
        dense = terms.mean_dense.repeat_interleave(BLOCKS_PER_RUN, dim=0)
        output[corrected] += dense - _normalized(weights[:, corrected], mean_parts)
    return output


def _normalized(weights: Tensor, parts: Tensor) -> Tensor:
    """[C, n, r, D] of weights [n, C, 3 NK] and parts [3, NK, n, r, D + 1]."""
    _, _, groups, rows, width = parts.shape
    total = torch.bmm(weights, parts.flatten(3).flatten(0, 1).transpose(0, 1))
    total = total.view(groups, -1, rows, width).transpose(0, 1)
    return total[..., :-1] / total[..., -1:]


class BlockErrors(NamedTuple):
    """Squared errors that each (judged block, key block) leaves by itself, [n, NK] each.

    dropped, coarse, fine: sums over the rows of |T_J - S_J - (t_J - s_J) o|^2, with S_J what takes
    the place of the block. corrected_coarse, corrected_fine: after the same vector of the run's
    mean query is taken off. mass: sum of P. energy: [n], sum of |o|^2.
    """

    dropped: Tensor
    coarse: Tensor
    fine: Tensor
    corrected_coarse: Tensor
    corrected_fine: Tensor
    mass: Tensor
    energy: Tensor


def block_errors(terms: Terms) -> BlockErrors:
    """The errors of single blocks, first order in what the others leave."""
    found: list[list[Tensor]] = []
    # One key block at a time stays in the cache.
    for index in range(terms.parts.shape[1]):
        left = _left(terms.parts[:, index], terms.dense)
        mean_left = _left(terms.mean_parts[:, index], terms.mean_dense)
        rest = [
            whole - mean.repeat_interleave(BLOCKS_PER_RUN, dim=0)
            for whole, mean in zip(left[1:], mean_left[1:], strict=True)
        ]
        found.append([part.square().sum(dim=(1, 2)) for part in (*left, *rest)])
    squares = [torch.stack(parts, dim=1) for parts in zip(*found, strict=True)]
    mass = terms.parts[Kind.EXACT - 1, ..., -1].sum(dim=2).T
    return BlockErrors(*squares, mass=mass, energy=terms.dense.square().sum(dim=(1, 2)))


def _left(parts: Tensor, dense: Tensor) -> list[Tensor]:
    """For dropped, coarse and fine: the vectors [n, r, D] that a key block leaves."""
    coarse, fine, exact = parts
    return [
        left[..., :-1] - left[..., -1:] * dense for left in (exact, exact - coarse, exact - fine)
    ]
