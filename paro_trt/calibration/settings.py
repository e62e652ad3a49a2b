"""What a user may choose about a calibration."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ArgumentError
from ..families.presets import DEFAULT_DENSITY
from ..op.spec import BIT_WIDTHS, BLOCK_SIZES, COARSE_KEYS
from .select_mask import Allocation, MaskMetric, MaskTarget, check_shares
from .select_order import OrderMetric
from .statistics import Tiling

COST_BLOCK_Q = 64
"""Tokens in a query block that suit a cost best: 12 % less error than 128 on the included model
at density .3 and .2."""

_COUNTS = (
    "bins",
    "captured_steps",
    "prompt_limit",
    "order_query_blocks",
    "order_rows",
    "error_query_blocks",
)


@dataclass(frozen=True)
class CalibrationSettings:
    """Options of `calibrate`, checked when made.

    Args:
        density: attended blocks / all blocks, in (0, 1]; None with `mass` or `cost`.
        mass: attention every head keeps, in (0, 1]; None with `density` or `cost`.
        cost: keys that a query meets / S, in (0, 1]; None with `density` or `mass`. Blocks are
            then exact, fine or coarse, some may be chosen at run time and heads corrected;
            needs `pool_dropped` and `MaskMetric.OUTPUT_ERROR`.
        block_q: tokens in a query block, 64 or 128.
        block_k: tokens in a key block, 64 or 128.
        bins: intervals of the schedule with masks of their own.
        pool_dropped: left-out key blocks join the softmax as one summary token each.
        qk_bits: 16, 8 or 4 for query x key.
        pv_bits: 16, 8 or 4 for probabilities x value.
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

    Raises:
        ArgumentError: an option is out of range.
    """

    density: float | None = DEFAULT_DENSITY
    mass: float | None = None
    cost: float | None = None
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

    def __post_init__(self) -> None:
        check_shares({"density": self.density, "mass": self.mass, "cost": self.cost})
        if self.cost is not None:
            self._check_mix()
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

    @property
    def target(self) -> MaskTarget:
        """What masks of exact blocks aim at; under a cost, the density that it pays for where no
        block is fine."""
        if self.cost is None:
            return MaskTarget(self.density, self.mass)
        coarse = COARSE_KEYS / self.block_k
        return MaskTarget(density=max((self.cost - coarse) / (1.0 - coarse), 1e-6))

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


def _require_one_of(name: str, value: int, allowed: tuple[int, ...]) -> None:
    if value not in allowed:
        raise ArgumentError(
            name, expected=f"one of {', '.join(map(str, allowed))}", actual=str(value)
        )
