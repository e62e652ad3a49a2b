"""Gaussian inputs with and without channel outliers, and the most that 4-bit codes can reach there.

With independent Gaussian queries and keys, the logits are close to a Gaussian number for each pair,
and so is their error. Where its variance is v and the values are independent of the weights, the
cosine of the output to the exact one is exp(-v / 2): of 16 codes for each number, each rounding
adds its share d of the number's variance, v = 2 d - d^2 for logits of variance 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from paro_trt.calibration.op_error import attended_rows, dense_rows
from paro_trt.calibration.quantize import random_signs
from paro_trt.op.smoothing import rotate
from paro_trt.op.spec import block_count

from ..quality.sources import LayerCall
from .modes import BLOCK_K, BLOCK_Q, Bits
from .planned import (
    Agreement,
    planned_head,
    quantization_choice,
    quantization_errors,
    ranges_of,
)

MODES = (Bits(8, 8), Bits(4, 8), Bits(4, 8, smoothed=True), Bits(4, 4, smoothed=True))


class Inputs(NamedTuple):
    """Gaussian queries, keys and values; four channels are unlike the others.

    offset: of keys, queries have a fourth of it; factor: on keys.
    """

    name: str
    offset: float = 0.0
    factor: float = 1.0

    def draw(self, tokens: int, head_dim: int, seed: int) -> LayerCall:
        """One head."""
        generator = torch.Generator().manual_seed(seed)
        query, key, value = (
            torch.randn(tokens, 1, head_dim, generator=generator) for _ in range(3)
        )
        large = torch.randperm(head_dim, generator=generator)[:4]
        key[..., large] = key[..., large] * self.factor + self.offset
        query[..., large] += self.offset / 4
        return LayerCall(0, 0, 0, query, key, value, head_dim**-0.5)


INPUTS = (Inputs("Gaussian"), Inputs("off zero", offset=8.0), Inputs("large", factor=8.0))


def outlier_page(tokens: int, seed: int) -> Iterator[str]:
    """Markdown, a line at a time."""
    yield "| inputs | D | bits | cosine | relative L2 error |"
    yield "|---|---|---|---|---|"
    for head_dim in (64, 128):
        for inputs in INPUTS:
            call = inputs.draw(tokens, head_dim, seed)
            found = {str(bits): mode_agreement(call, bits) for bits in MODES}
            found |= {name: best_agreement(call, codes) for name, codes in BEST_CODES.items()}
            for name, of in found.items():
                cells = f"{of.cosine:.2%} | {of.relative_error:.4f}"
                yield f"| {inputs.name} | {head_dim} | {name} | {cells} |"
    yield ""
    yield "| codes of a Gaussian number | lost variance | cosine, exp(-v / 2) |"
    yield "|---|---|---|"
    for name, lost in (
        ("16 equally spaced", lost_variance(uniform_levels())),
        ("16 anywhere (Lloyd and Max)", lost_variance(best_levels())),
        ("any code of 4 bits a number for many numbers together (Shannon)", 2.0**-8),
    ):
        yield f"| {name} | {lost:.5f} | {math.exp(-lost + lost**2 / 2):.2%} |"


def mode_agreement(call: LayerCall, bits: Bits) -> Agreement:
    """Of the op on one head with dense attention; affine and rotation are chosen on the call."""
    tokens = len(call.query)
    order, blocks = torch.arange(tokens), _judged(tokens)
    counts = block_count(tokens, BLOCK_Q), block_count(tokens, BLOCK_K)
    ranges = ranges_of([call])
    errors = quantization_errors([call], order[None], ranges, bits.smoothed, BLOCK_Q, range(4))
    choice = quantization_choice({bits.smoothed: errors}, ranges, bits)
    planned = planned_head(choice, bits, 0, order, torch.ones(counts, dtype=torch.bool))
    inputs = call.head(0)
    found = attended_rows(inputs, planned, bits.config(), blocks)
    return Agreement.of(found, dense_rows(inputs, order, BLOCK_Q, blocks))


def best_agreement(call: LayerCall, codes: Callable[[Tensor], Tensor]) -> Agreement:
    """The most that codes of queries and keys leave of attention when all else is exact.

    Means over all tokens are taken off, every row has the scale of least squared error, and the
    best is taken of channels equalized or not, rotated or not.
    """
    inputs, blocks = call.head(0), _judged(len(call.query))
    order = torch.arange(len(call.query))
    rows = torch.cat([order[block * BLOCK_Q : (block + 1) * BLOCK_Q] for block in blocks])
    dense = dense_rows(inputs, order, BLOCK_Q, blocks)
    signs = torch.from_numpy(random_signs(1, call.query.shape[2])[0])
    query_mean = inputs.query.mean(dim=0)
    query, key = inputs.query - query_mean, inputs.key - inputs.key.mean(dim=0)
    # Both have then one spread in each channel, which makes the sum of the errors least.
    equal = (key.std(dim=0) / query.std(dim=0)).sqrt()
    found = []
    for factor, rotated in product((torch.ones_like(equal), equal), (None, signs)):
        coded = codes(rotate(query[rows] * factor, rotated))
        # The rest of the logits, q . k_mean, is the same for all keys of a row.
        logits = coded @ codes(rotate(key / factor, rotated)).T + query_mean @ key.T
        output = (logits * call.scale).softmax(dim=1) @ inputs.value
        found.append(Agreement.of(output, dense))
    return max(found, key=lambda of: of.cosine)


def uniform_codes(x: Tensor) -> Tensor:
    """Rows [N, D] in 16 equally spaced codes, with or without zero."""
    largest = x.abs().amax(dim=1, keepdim=True)
    best, least = torch.zeros_like(x), torch.full_like(largest, torch.inf)
    for share in torch.linspace(0.5, 1.1, 49):
        step = largest * share / 7.5
        for shift, low, high in ((0.5, -7.5, 7.5), (0.0, -8.0, 7.0), (0.0, -7.0, 8.0)):
            tried = ((x / step - shift).round() + shift).clamp(low, high) * step
            best, least = _better(x, tried, best, least)
    return best


def free_codes(x: Tensor) -> Tensor:
    """Rows [N, D] in the 16 codes that lose least of a Gaussian number, one scale a row."""
    levels = best_levels().float()
    between = (levels[1:] + levels[:-1]) / 2
    spread = x.square().mean(dim=1, keepdim=True).sqrt()
    best, least = torch.zeros_like(x), torch.full_like(spread, torch.inf)
    for share in torch.linspace(0.7, 1.3, 25):
        scale = spread * share
        best, least = _better(x, levels[torch.bucketize(x / scale, between)] * scale, best, least)
    return best


BEST_CODES = {
    "QK best of 16 equally spaced codes, all else exact": uniform_codes,
    "QK best of 16 free codes, all else exact": free_codes,
}


def _better(x: Tensor, tried: Tensor, best: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
    error = (tried - x).square().sum(dim=1, keepdim=True)
    return torch.where(error < least, tried, best), torch.minimum(error, least)


@cache
def best_levels(count: int = 16) -> Tensor:
    """f64 [count]: what Lloyd's iteration makes of a Gaussian number of variance 1."""
    levels = uniform_levels(count)
    for _ in range(2000):
        levels = _centres((levels[1:] + levels[:-1]) / 2)
    return levels


@cache
def uniform_levels(count: int = 16) -> Tensor:
    """f64 [count]: equally spaced, at the step that loses least of a Gaussian number."""
    places = torch.arange(count, dtype=torch.float64) - (count - 1) / 2
    steps = torch.linspace(0.1, 1.0, 3601, dtype=torch.float64)
    return places * steps[int(torch.stack([_lost(places * step) for step in steps]).argmin())]


def lost_variance(levels: Tensor) -> float:
    """The mean squared error of a Gaussian number of variance 1 in its nearest level."""
    return float(_lost(levels))


def _lost(levels: Tensor) -> Tensor:
    edges = _with_ends((levels[1:] + levels[:-1]) / 2)
    mass, first = _moments(edges)
    second = mass - (_density(edges) * edges.nan_to_num(posinf=0.0, neginf=0.0)).diff()
    return (second - 2 * levels * first + levels.square() * mass).sum()


def _centres(between: Tensor) -> Tensor:
    mass, first = _moments(_with_ends(between))
    return first / mass


def _moments(edges: Tensor) -> tuple[Tensor, Tensor]:
    """Mass and first moment of a Gaussian number between neighbouring edges."""
    return torch.special.ndtr(edges).diff(), -_density(edges).diff()


def _density(x: Tensor) -> Tensor:
    return torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi)


def _with_ends(between: Tensor) -> Tensor:
    infinite = torch.tensor([torch.inf], dtype=torch.float64)
    return torch.cat([-infinite, between, infinite])


def _judged(tokens: int) -> range:
    return range(0, block_count(tokens, BLOCK_Q), 4)
