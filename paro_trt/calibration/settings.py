"""What a user may choose about a calibration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..errors import ArgumentError
from ..families.presets import DEFAULT_DENSITY
from ..op.spec import BIT_WIDTHS, BLOCK_SIZES, COARSE_KEYS
from .select_mask import Allocation, MaskMetric, MaskTarget, check_shares
from .select_order import OrderMetric
from .statistics import Tiling
from .time_model import Target, has_fast_four_bits, relative_time

COST_BLOCK_Q = 64
"""Tokens in a query block that suit a cost best: 12 % less error than 128 on the included model
at density .3 and .2."""

FEW_STEPS = 8
MOST_MASK_BITS = 2_500_000_000
"""Of a plane of masks in all bins: at a cost, two planes of as many bits take up to 80 MB in a plan
(paro_trt/plan/FORMAT.md)."""
"""Steps up to which each has masks of its own, where no number of bins is asked for."""

_LEVEL_FACTORS = (2.0, 1.4, 1.0, 0.7, 0.5)
"""Levels tried with `Allocation.MEASURED`, as multiples of what every layer would keep."""

_LARGEST_LEVEL = 0.95
"""A level above it is nearly dense, which is tried in any case."""

_SHARE_OF_ERROR = 0.2
"""What levels are spread around where an error is the budget."""

_COUNTS = (
    "captured_steps",
    "prompt_limit",
    "order_query_blocks",
    "order_rows",
    "error_query_blocks",
    "effect_calls",
    "head_groups",
    "bins",
)


@dataclass(frozen=True)
class CalibrationSettings:
    """Options of `calibrate`, checked when made.

    Args:
        density: attended blocks / all blocks, in (0, 1]; exactly one of this and the next four.
        mass: attention every head keeps, in (0, 1].
        cost: keys that a query meets / S, in (0, 1]. Blocks are then exact, fine or coarse, some
            may be chosen at run time and heads corrected; needs `pool_dropped` and
            `MaskMetric.OUTPUT_ERROR`.
        speedup: counted time of dense attention in 16 bits / that of the plan, at least 1; needs
            `Allocation.MEASURED`. Blocks are as with `cost`.
        max_error: relative L2 error of the prediction that the plan's parts may add, in (0, 1];
            as `speedup`.
        block_q: tokens in a query block, 64 or 128.
        block_k: tokens in a key block, 64 or 128.
        bins: intervals of the schedule with masks of their own; see `bins_for_steps`.
        pool_dropped: left-out key blocks join the softmax as one summary token each.
        qk_bits: 16, 8 or 4 for query x key; with `Allocation.MEASURED` the fewest to choose from.
        pv_bits: the same for probabilities x value.
        smoothing: query x key is smoothed where it has 4 bits: what 4 bits carry is what the
            means of both blocks leave. False makes plans that runtimes of version 1 of the op run.
        order_metric: what makes an order good.
        mask_metric: what makes a block worth attending.
        allocation: who shares a density budget.
        captured_steps: denoising steps that are captured in each bin.
        seed: of the run's noise.
        int4_max_error: relative L2 error of a layer's attention that 4 bits may add.
        candidate_orders: names of orders to try; None means all that suit the grid.
        prompt_limit: prompts run, the first of those given; None means all.
        order_query_blocks: query blocks, spread over the sequence, that orders are judged by.
        order_rows: tokens of each of these query blocks, spread over it.
        error_query_blocks: query blocks that bit widths, channel affines and the predicted error
            are measured at.
        time_attention: time the dense model and record what to expect; without it, the same
            call makes the same plan to the last bit.
        time_target: the GPU that time is counted for with `Allocation.MEASURED`.
        cost_levels: costs (or densities, where one is asked for) tried for each layer in each bin
            with `Allocation.MEASURED`, in addition to all blocks and to the forced ones alone;
            None: half to twice what every layer would keep.
        effect_calls: recorded calls of each bin that effects are measured on.
        head_groups: groups of a layer's heads, by the error that a head leaves, that have a level
            of blocks each with `Allocation.MEASURED`; at most its heads.

    Raises:
        ArgumentError: an option is out of range.
    """

    density: float | None = DEFAULT_DENSITY
    mass: float | None = None
    cost: float | None = None
    speedup: float | None = None
    max_error: float | None = None
    block_q: int = 128
    block_k: int = 64
    bins: int = 2
    pool_dropped: bool = True
    qk_bits: int = 8
    pv_bits: int = 8
    smoothing: bool = True
    order_metric: OrderMetric = OrderMetric.OUTPUT_ERROR
    mask_metric: MaskMetric = MaskMetric.OUTPUT_ERROR
    allocation: Allocation = Allocation.LAYER
    captured_steps: int = 2
    seed: int = 0
    int4_max_error: float = 0.05
    candidate_orders: tuple[str, ...] | None = None
    prompt_limit: int | None = 4
    order_query_blocks: int = 16
    order_rows: int = 16
    error_query_blocks: int = 4
    time_attention: bool = True
    time_target: Target = Target.GENERIC
    cost_levels: tuple[float, ...] | None = None
    effect_calls: int = 1
    head_groups: int = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "time_target", _target(self.time_target))
        self._check_budget()
        if self.mixes:
            self._check_mix()
        if self.allocation is Allocation.MEASURED:
            self._check_measured()
        for name in ("block_q", "block_k"):
            _require_one_of(name, getattr(self, name), BLOCK_SIZES)
        for name in ("qk_bits", "pv_bits"):
            _require_one_of(name, getattr(self, name), BIT_WIDTHS)
        for name in _COUNTS:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ArgumentError(name, expected="at least 1", actual=str(value))
        if not self.int4_max_error >= 0.0:
            raise ArgumentError(
                "int4_max_error", expected="at least 0", actual=str(self.int4_max_error)
            )

    def _check_mix(self) -> None:
        if not self.pool_dropped:
            raise ArgumentError(
                "pool_dropped", expected="true with a cost: fine and coarse blocks are pooled",
                actual="false", remedy="ask for a density instead",
            )  # fmt: skip
        if self.mask_metric is not MaskMetric.OUTPUT_ERROR:
            raise ArgumentError(
                "mask_metric", expected=f"{MaskMetric.OUTPUT_ERROR.value} with a cost",
                actual=self.mask_metric.value,
            )  # fmt: skip

    def _check_budget(self) -> None:
        shares = {"density": self.density, "mass": self.mass, "cost": self.cost}
        measured = {"speedup": self.speedup, "max_error": self.max_error}
        given = [name for name, value in measured.items() if value is not None]
        if given and self.allocation is not Allocation.MEASURED:
            raise ArgumentError(
                given[0], expected="none without measured effects",
                actual=f"{measured[given[0]]:g}",
                remedy="add allocation=Allocation.MEASURED (--allocate measured)",
            )  # fmt: skip
        if self.speedup is None:
            check_shares({**shares, "max_error": self.max_error} if given else shares)
            return
        others = [name for name, value in {**shares, **measured}.items() if value is not None]
        if len(others) > 1:
            raise ArgumentError(
                ", ".join({**shares, **measured}), expected="one of them",
                actual=" and ".join(others),
            )  # fmt: skip
        if not 1.0 <= self.speedup < float("inf"):
            raise ArgumentError("speedup", expected="at least 1", actual=f"{self.speedup:g}")

    def _check_measured(self) -> None:
        if self.mass is not None:
            raise ArgumentError(
                "mass", expected="none with measured effects", actual=f"{self.mass:g}",
                remedy="ask for a speedup, a maximal error, a cost or a density",
            )  # fmt: skip
        for name in ("qk_bits", "pv_bits"):
            if getattr(self, name) == 4 and not has_fast_four_bits(self.time_target):
                raise ArgumentError(
                    name, actual="4",
                    expected=f"16 or 8 on {self.time_target.value}: 4 bits save no time there",
                    remedy="count the time for --target sm_86 or sm_89",
                )  # fmt: skip
        for level in self.cost_levels or ():
            if not 0.0 < level < 1.0:
                raise ArgumentError(
                    "levels", expected="shares in (0, 1)", actual=f"{level:g}",
                    remedy="all blocks, and the forced ones alone, are tried in any case",
                )  # fmt: skip

    @property
    def mixes(self) -> bool:
        """Whether blocks are exact, fine or coarse."""
        return self.density is None and self.mass is None

    @property
    def uniform_share(self) -> float | None:
        """What every layer would keep, in the unit of the budget: about that for a speedup, and a
        guess for an error. None with a mass."""
        if self.speedup is not None:
            smoothed_keys = self.block_k if self.smoothing else None
            time = relative_time(self.time_target, 128, self.qk_bits, self.pv_bits, smoothed_keys)
            return min(1.0, 1.0 / (self.speedup * time))
        if self.max_error is not None:
            return _SHARE_OF_ERROR
        return self.density if self.cost is None else self.cost

    @property
    def levels(self) -> tuple[float, ...]:
        """What is tried for a layer in a bin, densest first: 1 keeps all, 0 the forced blocks."""
        share = self.uniform_share or 0.0
        tried = self.cost_levels or tuple(
            share * factor for factor in _LEVEL_FACTORS if share * factor < _LARGEST_LEVEL
        )
        return (1.0, *sorted(set(tried), reverse=True), 0.0)

    @property
    def target(self) -> MaskTarget:
        """What masks of exact blocks aim at; under a cost, the density that it pays for where no
        block is fine."""
        if not self.mixes:
            return MaskTarget(self.density, self.mass)
        coarse = COARSE_KEYS / self.block_k
        share = self.uniform_share or 0.0
        return MaskTarget(density=max((share - coarse) / (1.0 - coarse), 1e-6))

    @property
    def tiling(self) -> Tiling:
        """Block sizes."""
        return Tiling(self.block_q, self.block_k)

    def bin_starts(self, served: range) -> tuple[int, ...]:
        """First step of each bin: the served steps of a run in equal parts."""
        return tuple(served.start + index * len(served) // self.bins for index in range(self.bins))

    def captured(self, served: range) -> tuple[tuple[int, ...], ...]:
        """The captured steps of each bin, spread evenly over it."""
        ends = (*self.bin_starts(served)[1:], served.stop)
        return tuple(
            tuple(
                start + (2 * index + 1) * (end - start) // (2 * self.captured_steps)
                for index in range(self.captured_steps)
            )
            for start, end in zip(self.bin_starts(served), ends, strict=True)
        )


def with_defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `CalibrationSettings` with the defaults that follow from others.

    Where keys or time are the budget, there is no density, and query blocks are small; where
    effects are measured for a GPU that is faster with 4 bits, those may be chosen for query x key:
    values lose more by them (docs/measurements/2026-11-30-four-bits.md).
    """
    chosen = dict(settings)
    if any(chosen.get(name) is not None for name in ("cost", "speedup", "max_error")):
        chosen = {"density": None, "block_q": COST_BLOCK_Q, **chosen}
    measured = chosen.get("allocation") is Allocation.MEASURED
    if measured and has_fast_four_bits(chosen.get("time_target", Target.GENERIC)):
        chosen = {"qk_bits": 4, **chosen}
    return chosen


def bins_for_steps(
    settings: CalibrationSettings, served: range, heads: int, tokens: int
) -> CalibrationSettings:
    """The settings with the bins that follow from their budget, the served steps and the model.

    Each of 2 to `FEW_STEPS` steps has a bin and is captured. With more, a cost keeps two bins
    where their masks fit `MOST_MASK_BITS`: the second is worth up to 2.5 dB of video
    (docs/measurements/2026-11-30-allocation-videos.md). Larger plans have one bin that sees as many
    steps as two would. Other settings stay as they are.

    Args:
        settings: whose bins nobody chose.
        served: the steps that the transformer serves.
        heads: of all layers together.
        tokens: S of a sample.
    """
    if 2 <= len(served) <= FEW_STEPS:
        return replace(settings, bins=len(served), captured_steps=1)
    of_blocks = settings.cost is not None and settings.allocation is not Allocation.MEASURED
    blocks = -(-tokens // settings.block_q) * -(-tokens // settings.block_k)
    if of_blocks and len(served) > FEW_STEPS and settings.bins * heads * blocks > MOST_MASK_BITS:
        steps = settings.bins * settings.captured_steps
        return replace(settings, bins=1, captured_steps=steps)
    return settings


def _target(value: str | Target) -> Target:
    try:
        return Target(value)
    except ValueError as error:
        raise ArgumentError(
            "time_target", expected=f"one of {', '.join(of.value for of in Target)}",
            actual=str(value),
        ) from error  # fmt: skip


def _require_one_of(name: str, value: int, allowed: tuple[int, ...]) -> None:
    if value not in allowed:
        raise ArgumentError(
            name, expected=f"one of {', '.join(map(str, allowed))}", actual=str(value)
        )
