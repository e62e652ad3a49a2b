"""What attention costs on a GPU, counted: clocks of an SM for each score, by target and bit widths.

A score takes the longest of four terms: the tensor cores' products, the exponential, the issue of
instructions and the FP32 lanes. Instructions are those of the kernels in
plugins/kernels/sass/budget.json with tiles of 128 queries and steps of 64 keys, rates those of
plugins/kernels/sass/pipes.py. Nothing here was measured on a GPU: only ratios are used.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from ..op.spec import BIT_WIDTHS


class Target(str, Enum):
    """What a plan's time is counted for. GENERIC: 8 bits take half the time of 16, and 4 bits as
    long as 8."""

    GENERIC = "generic"
    SM_80 = "sm_80"
    SM_86 = "sm_86"
    SM_89 = "sm_89"
    SM_90 = "sm_90"
    SM_100 = "sm_100"
    SM_120 = "sm_120"


class _Rates(NamedTuple):
    """Of an SM. eight_bit, sixteen_bit: operations a clock; native: 4 bits at twice the rate of 8;
    fp32: lanes."""

    eight_bit: float
    sixteen_bit: float
    native: bool
    fp32: int


_RATES = {
    Target.SM_80: _Rates(4096, 2048, native=True, fp32=64),
    Target.SM_86: _Rates(2048, 512, native=True, fp32=128),
    Target.SM_89: _Rates(2048, 512, native=True, fp32=128),
    # mma.sync; by wgmma, which the 8-bit kernel of sm_90 uses, see _WGMMA.
    Target.SM_90: _Rates(4965, 2482, native=False, fp32=128),
    Target.SM_100: _Rates(4965, 2482, native=False, fp32=128),
    Target.SM_120: _Rates(2048, 512, native=False, fp32=128),
}

_HEAD_DIMS = (64, 128)
"""Of the kernels; a layer's channels are padded to the next."""

# Instructions for each score, D = 64 and 128, by the bits of (Q K, P V).
_NATIVE = {
    (16, 16): (9.8, 13.8), (16, 8): (10.0, 15.0), (16, 4): (12.0, 18.1),
    (8, 16): (10.3, 14.3), (8, 8): (10.6, 15.0), (8, 4): (12.3, 17.7),
    (4, 16): (9.9, 12.7), (4, 8): (9.9, 13.9), (4, 4): (11.9, 16.9),
}  # fmt: skip
_UNPACKED = {
    **_NATIVE, (16, 4): (13.0, 20.0), (8, 4): (13.3, 19.6),
    (4, 16): (11.1, 15.0), (4, 8): (11.2, 16.2), (4, 4): (14.0, 21.0),
}  # fmt: skip
_WGMMA, _WGMMA_RATE = (9.5, 12.1), 8192
_FP32 = {16: (3.4, 5.5), 8: (5.9, 8.3), 4: (7.9, 11.8)}
"""FP32 instructions for each score, by the bits of P V."""

_SMOOTHED_TOPS = {
    (Target.SM_80, 64): (322, 323), (Target.SM_80, 128): (343, 399),
    (Target.SM_86, 64): (496, 428), (Target.SM_86, 128): (492, 703),
    (Target.SM_89, 64): (496, 428), (Target.SM_89, 128): (492, 703),
}  # fmt: skip
"""Of 8 bits and of smoothed 4-bit Q K, by target and tokens in a key block: of the model in
docs/kernels.md, D = 128 and 8-bit values, whose 4090 stands for sm_86 too. Elsewhere 4 bits save
nothing."""

_LEFT_OUT, _LEAST_GAIN = 1.04, 0.05
"""What that model leaves out of a smoothed call: the offsets and the launch of the biases. Less of
a gain is none, since the model is not that exact."""

_EXPONENTIALS, _LANES = 16, 128
"""Of an SM in a clock; a warp of each of four schedulers issues an instruction."""


def clocks_per_score(target: Target, head_dim: int, qk_bits: int, pv_bits: int) -> float:
    """Clocks of an SM for a score; on GENERIC, parts of the time of 16 bits.

    Args:
        target: the GPU.
        head_dim: D.
        qk_bits: 16, 8 or 4.
        pv_bits: 16, 8 or 4.
    """
    if target is Target.GENERIC:
        return sum(0.5 if bits == 16 else 0.25 for bits in (qk_bits, pv_bits))
    wide = int(head_dim > _HEAD_DIMS[0])
    rates, channels = _RATES[target], _HEAD_DIMS[wide]
    instructions = (_NATIVE if rates.native else _UNPACKED)[qk_bits, pv_bits][wide]
    of_bits = {16: rates.sixteen_bit, 8: rates.eight_bit}
    of_bits[4] = rates.eight_bit * (2 if rates.native else 1)
    if target is Target.SM_90 and (qk_bits, pv_bits) == (8, 8):
        instructions, of_bits[8] = _WGMMA[wide], _WGMMA_RATE
    products = sum(2 * channels / of_bits[bits] for bits in (qk_bits, pv_bits))
    return max(
        products,
        1 / _EXPONENTIALS,
        instructions / _LANES,
        _FP32[pv_bits][wide] / rates.fp32,
    )


def _smoothed_share(target: Target, keys: int) -> float:
    """Time of smoothed 4-bit Q K over that of 8 bits."""
    eight, smoothed = _SMOOTHED_TOPS.get((target, keys), (1, 1))
    share = _LEFT_OUT * eight / smoothed if eight != smoothed else 1.0
    return share if share > 1 or share <= 1 - _LEAST_GAIN else 1.0


def relative_time(
    target: Target, head_dim: int, qk_bits: int, pv_bits: int, smoothed_keys: int | None = None
) -> float:
    """Time of a score as a share of its time at 16 bits.

    smoothed_keys: tokens in a key block where 4-bit Q K is smoothed; None: it is not.
    """
    share = 1.0
    if qk_bits == 4 and smoothed_keys is not None:
        share, qk_bits = _smoothed_share(target, smoothed_keys), 8
    clocks = clocks_per_score(target, head_dim, qk_bits, pv_bits)
    return share * clocks / clocks_per_score(target, head_dim, 16, 16)


def worthwhile_bits(
    target: Target, head_dim: int, least_qk: int, least_pv: int, smoothed_keys: int | None = None
) -> tuple[tuple[int, int], ...]:
    """Pairs (qk_bits, pv_bits) that a plan may choose, widest first.

    A pair with 4 bits is left out where one with more is as fast: they are only ever chosen where
    they save time, which is where the tensor cores multiply them natively. The kernels do not
    smooth with 16-bit values.

    Args:
        target: the GPU.
        head_dim: D.
        least_qk: the fewest bits that are allowed for Q K.
        least_pv: the same for P V.
        smoothed_keys: as of `relative_time`.
    """
    pairs = [(qk, pv) for qk in _widths(least_qk) for pv in _widths(least_pv)]

    def pays(qk: int, pv: int) -> bool:
        if smoothed_keys is not None and (qk, pv) == (4, 16):
            return False
        time = relative_time(target, head_dim, qk, pv, smoothed_keys)
        wider = [of for of in pairs if of != (qk, pv) and of[0] >= qk and of[1] >= pv]
        return all(time < relative_time(target, head_dim, *of, smoothed_keys) for of in wider)

    return tuple(pair for pair in pairs if 4 not in pair or pays(*pair))


def has_fast_four_bits(target: Target) -> bool:
    """Whether 4-bit products are native and faster than those of 8 bits."""
    return target is not Target.GENERIC and _RATES[target].native


def _widths(least: int) -> list[int]:
    return sorted((bits for bits in BIT_WIDTHS if bits >= least), reverse=True)
