"""The tolerance policy: what "equal to the reference" means.

An implementation may be as wrong as a faithful low-precision one, twice over, plus a rounding
band. The band is derived, never tuned:

- the output is rounded to its dtype: half a unit in the last place of each element;
- sums are FP32 in any order, and the value affine may be undone before or after them: the error
  of n additions is a random walk of sqrt(n) units of the largest |v| they meet, and eight units
  more cover products, exponentials and the final division;
- a corrected row is a sum of three attentions, of its own query and twice of the mean query, each
  with these errors;
- a P within rounding error of a code's edge may take either code. One code more or
  less moves a row by at most 2 max|v| / levels, since the row sum is at least `levels`; edges
  are met with a probability of about levels * 2^-18 an attended key (relative error of P 2^-19:
  logits of magnitude below 32 in FP32 and a 2-ulp exp2). Over all rows the moves are
  independent, so the global band takes the root of that probability a key.

All three checks are needed: a global norm alone lets one wrong row pass, an element-wise bound
alone lets a bias pass, and neither sees NaN in the right place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from paro_trt.op.quantization import PROBABILITY_LEVELS
from paro_trt.op.reference import paro_attention_reference
from paro_trt.op.spec import AttentionConfig, AttentionInputs

FAITHFUL_FACTOR = 2.0
_EDGE_PROBABILITY = 2.0**-18


@dataclass(frozen=True)
class Comparison:
    """Outcome of `compare`: empty `failures` means equal within tolerance.

    excess: largest error over its element's bound; relative_l2: over all finite elements, next
    to its bound.
    """

    failures: tuple[str, ...]
    excess: float
    relative_l2: float
    relative_l2_bound: float

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return not self.failures


def compare(actual: Tensor, inputs: AttentionInputs, config: AttentionConfig) -> Comparison:
    """Hold an implementation's output [B,S,H,D] against the float64 oracle."""
    return compare_all({"": actual}, inputs, config)[""]


def compare_all(
    outputs: Mapping[str, Tensor], inputs: AttentionInputs, config: AttentionConfig
) -> dict[str, Comparison]:
    """`compare` of each of several implementations' outputs, for one computation of the oracle."""
    exact = paro_attention_reference(inputs, config, exact=True)
    faithful = paro_attention_reference(inputs, config).double()
    largest = _largest_value(inputs) * _attentions_of_a_row(inputs)
    flip = _flips(inputs, config) * largest
    storage = inputs.query.dtype
    return {
        name: compare_outputs(actual, exact, faithful, largest, flip, storage)
        for name, actual in outputs.items()
    }


def compare_outputs(
    actual: Tensor,
    exact: Tensor,
    faithful: Tensor,
    largest: Tensor,
    flip: Tensor,
    storage: torch.dtype,
) -> Comparison:
    """Element-wise, global and NaN/Inf checks.

    Args:
        actual, exact, faithful: [B,S,H,D].
        largest: [B,1,H,1], the largest |v| a head sums; flip: [B,1,H,1], what P's code edges may
            move a row by.
        storage: dtype of the implementation's inputs and output.
    """
    failures = []
    actual = actual.double()
    for name, same in (
        ("NaN", actual.isnan() == exact.isnan()),
        ("infinity", actual.isinf() == exact.to(storage).double().isinf()),
    ):
        if not bool(same.all()):
            failures.append(f"{name} at other places: {int((~same).sum())} elements differ")
    finite = actual.isfinite() & exact.isfinite() & faithful.isfinite()
    zero = torch.zeros_like(exact)
    exact_f = torch.where(finite, exact, zero)
    error = torch.where(finite, (actual - exact).abs(), zero)
    faithful_error = torch.where(finite, (faithful - exact).abs(), zero)
    row_error = faithful_error.amax(dim=-1, keepdim=True)
    unit = torch.finfo(storage).eps / 2
    steps = 8 + math.sqrt(exact.shape[1])
    band = unit * exact_f.abs() + steps * torch.finfo(torch.float32).eps * largest + flip
    bound = FAITHFUL_FACTOR * row_error + band + torch.finfo(storage).tiny
    excess = float((error / bound).max())
    if excess > 1:
        failures.append(f"element-wise error {excess:.2f} times its bound")
    norm = float(exact_f.norm()) or 1.0
    relative = float(error.norm()) / norm
    edges = float(flip.expand_as(exact_f).norm()) * math.sqrt(_EDGE_PROBABILITY) / norm
    relative_bound = FAITHFUL_FACTOR * float(faithful_error.norm()) / norm + unit + 1e-6 + edges
    if relative > relative_bound:
        failures.append(f"relative L2 {relative:.2e} above {relative_bound:.2e}")
    return Comparison(tuple(failures), excess, relative, relative_bound)


def _attentions_of_a_row(inputs: AttentionInputs) -> Tensor:
    """[1,1,H,1]: how many attentions make up an output row of each head."""
    heads = torch.ones(inputs.query.shape[2], dtype=torch.float64)
    if inputs.corrected_heads is not None:
        heads = heads + 2 * (inputs.corrected_heads != 0)
    return heads[None, None, :, None]


def _largest_value(inputs: AttentionInputs) -> Tensor:
    """[B,1,H,1]: the largest finite |v| of each head, as it is and off its calibrated mean."""
    value = inputs.value.double()
    centred = value - inputs.channel_affine[2].double()
    magnitude = torch.maximum(value.abs(), centred.abs())
    magnitude = torch.where(magnitude.isfinite(), magnitude, 0.0)
    group = inputs.query.shape[2] // value.shape[2]
    return magnitude.amax(dim=(1, 3), keepdim=True).repeat_interleave(group, dim=2)


def _flips(inputs: AttentionInputs, config: AttentionConfig) -> float:
    """How far code edges of P may move a row, in units of its largest |v|."""
    if config.pv_bits == 16:
        return 0.0
    levels = PROBABILITY_LEVELS[config.pv_bits]
    flips = 1 + math.ceil(inputs.query.shape[1] * levels * _EDGE_PROBABILITY)
    # The extremes of v differ by at most twice the largest |v|.
    return 2 * flips / levels
