"""One list of inputs that break careless numerics: nothing may make NaN or infinity of them.

    for stress in STRESSES:
        inputs = stress.inputs(replace(STRESS_CASE, config=config, dtype=dtype), seed)
        assert not problems(implementation(inputs, config), inputs)

All values are finite, and so is every sum that the op is defined by. They work at each type of
query, key and value, each bit width, smoothed or not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from paro_trt.bench.case import OpCase, random_inputs
from paro_trt.op.spec import AffineRow, AttentionConfig, AttentionInputs

STRESS_CASE = OpCase(
    "stress",
    200,
    batch=2,
    key_length=(200, 129),
    config=AttentionConfig(block_q=64, block_k=64, pool_dropped=True),
)
"""Small and ragged: the second sample's last block has one token. Head 0 is rotated, 1 is not."""

Change = Callable[[AttentionInputs], AttentionInputs]


@dataclass(frozen=True)
class Stress:
    """A change to ordinary random inputs, in their own type."""

    name: str
    change: Change

    def inputs(self, case: OpCase, seed: int) -> AttentionInputs:
        """Fresh inputs of a case, changed."""
        return self.change(random_inputs(case, seed))


def problems(output: Tensor, inputs: AttentionInputs) -> list[str]:
    """What is wrong with an output [B, S, H, D]; empty where nothing is.

    It must be finite, and no row may leave what its values span: rows of P sum to one. 4 bits may
    miss the largest |v - n| by a seventh, and a corrected row adds a difference of two attentions.
    """
    finite = output.isfinite()
    if not bool(finite.all()):
        return [f"{int((~finite).sum())} elements are not finite"]
    shift = inputs.channel_affine[AffineRow.VALUE_MEAN].double()
    value = inputs.value.double()
    spread = torch.maximum(value.abs(), (value - shift).abs()).amax() + shift.abs().amax()
    attentions = 1 if inputs.corrected_heads is None else 3
    bound = 1.25 * attentions * float(spread)
    largest = float(output.double().abs().max())
    return [f"|output| is {largest:.3g}, above {bound:.3g}"] if largest > bound else []


def _scaled(query: float, key: float, value: float) -> Change:
    """Everything times a factor, calibrated means too."""

    def change(inputs: AttentionInputs) -> AttentionInputs:
        affine = inputs.channel_affine.clone()
        affine[AffineRow.KEY_MEAN] *= key
        affine[AffineRow.VALUE_MEAN] *= value
        return inputs._replace(
            query=_within(inputs.query.float() * query, inputs.query.dtype),
            key=_within(inputs.key.float() * key, inputs.key.dtype),
            value=_within(inputs.value.float() * value, inputs.value.dtype),
            channel_affine=affine,
        )

    return change


def _within(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x held within the type's finite range."""
    largest = torch.finfo(dtype).max
    return x.clamp(-largest, largest).to(dtype)


def _by_type(half: Change, others: Change) -> Change:
    """One change for float16, whose range is small, another for bfloat16 and float32."""
    return lambda inputs: (half if inputs.query.dtype == torch.float16 else others)(inputs)


def _edited(name: str, edit: Callable[[Tensor], None]) -> Change:
    """One of query, key and value [B, S, H, D] edited in place, in a copy."""

    def change(inputs: AttentionInputs) -> AttentionInputs:
        tensor: Tensor = getattr(inputs, name).clone()
        edit(tensor)
        return inputs._replace(**{name: tensor})

    return change


def _all_of(*changes: Change) -> Change:
    def change(inputs: AttentionInputs) -> AttentionInputs:
        for each in changes:
            inputs = each(inputs)
        return inputs

    return change


def _outlier_channels(x: Tensor) -> None:
    x[..., 3] *= 100
    x[..., 40] *= -100


def _one_row_large(x: Tensor) -> None:
    """Row 70's logits reach 10^5, where exp without a row maximum is infinite from 89."""
    x[:, 70] *= 200


def _same_rows(x: Tensor) -> None:
    x[:] = x[:, :1].clone()


def _rows_of_one_number(x: Tensor) -> None:
    x[:] = x[:, :, :, :1].clone()


def _opposite_rows(x: Tensor) -> None:
    """Every row is a vector or its negative: the mean of most blocks is about 0."""
    x[:, ::2] = x[:, :1].clone()
    x[:, 1::2] = -x[:, :1].clone()


def _zero(x: Tensor) -> None:
    x.zero_()


def _one_row_exists(x: Tensor) -> None:
    """All of a block is zero but one row: its mean is a 64th of it."""
    row = x[:, 5].clone()
    x[:, :64] = 0
    x[:, 5] = row


STRESSES: tuple[Stress, ...] = (
    Stress("query-outlier-channels", _edited("query", _outlier_channels)),
    Stress("key-outlier-channels", _edited("key", _outlier_channels)),
    Stress("value-outlier-channels", _edited("value", _outlier_channels)),
    Stress("all-outlier-channels", _all_of(
        *(_edited(name, _outlier_channels) for name in ("query", "key", "value")))),
    Stress("large-query-row", _edited("query", _one_row_large)),
    Stress("large-key-row", _edited("key", _one_row_large)),
    Stress("large-value-row", _edited("value", _one_row_large)),
    Stress("large-rows", _all_of(*(_edited(name, _one_row_large) for name in ("query", "key")))),
    Stress("same-keys", _edited("key", _same_rows)),
    Stress("same-rows", _all_of(
        *(_edited(name, _same_rows) for name in ("query", "key", "value")))),
    Stress("rows-of-one-number", _all_of(
        *(_edited(name, _rows_of_one_number) for name in ("query", "key", "value")))),
    Stress("opposite-rows", _all_of(
        *(_edited(name, _opposite_rows) for name in ("query", "key")))),
    Stress("one-row-of-a-block", _all_of(
        *(_edited(name, _one_row_exists) for name in ("query", "key", "value")))),
    Stress("zero-query", _edited("query", _zero)),
    Stress("zero-key", _edited("key", _zero)),
    Stress("all-zero", _all_of(*(_edited(name, _zero) for name in ("query", "key", "value")))),
    # Below the smallest normal number of the type: 2^-14 of float16, 2^-126 of the others.
    Stress("denormals", _by_type(
        _scaled(2.0**-18, 2.0**-18, 2.0**-18), _scaled(2.0**-130, 2.0**-130, 2.0**-130))),
    # Maxima around 2^-100, at and below which a group of values has codes 0.
    Stress("smallest-groups", _scaled(2.0**-102, 2.0**-102, 2.0**-102)),
    # Query and key of float16 at its largest number, values so far that three attentions of a
    # corrected row fit; bfloat16 and float32 as far as logits and sums stay finite.
    Stress("range", _by_type(
        _scaled(2.0**14, 2.0**14, 2.0**10), _scaled(2.0**56, 2.0**56, 2.0**110))),
    Stress("small-query-large-key", _by_type(
        _scaled(2.0**-14, 2.0**14, 1.0), _scaled(2.0**-90, 2.0**90, 1.0))),
)  # fmt: skip
"""By what they do to query, key and value."""
