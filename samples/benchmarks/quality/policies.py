"""The policies that the ablation compares, and how each is made at a density."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from torch import Tensor

from paro_trt.calibration.capture import dense_attention
from paro_trt.calibration.select_mask import Allocation, MaskMetric
from paro_trt.calibration.select_order import OrderMetric
from paro_trt.op.spec import AttentionConfig

from .attention import AttentionCall, Selection, selected_attention
from .bits import channel_affines
from .captures import AXIS_ORDERS, Captures
from .dynamic import best_top_blocks, spatial_temporal
from .static import (
    ParoRecipe,
    StaticMasks,
    attend_all,
    full_masks,
    paro_masks,
    random_masks,
    sliding_windows,
)


class Kind(str, Enum):
    """A policy, by the name that tables give it."""

    DENSE = "dense"
    PARO_POOLED = "PARO, pooled"
    PARO_DROPPED = "PARO, dropped"
    PARO_PAPER = "PARO, paper's metrics"
    NATURAL_POOLED = "no reorder, pooled"
    NATURAL_DROPPED = "no reorder, dropped"
    TOP_BLOCKS = "dynamic top-k blocks"
    SLIDING_WINDOWS = "3-D sliding windows"
    SPATIAL_TEMPORAL = "spatial/temporal heads"
    RANDOM = "random + diagonal"

    @property
    def pooled(self) -> bool:
        """Whether key blocks off the mask leave a summary token."""
        return self in (Kind.PARO_POOLED, Kind.NATURAL_POOLED)


ORDER_DENSITY = 0.3
"""Density at which quantized PARO is measured, and whose orders it has at density 1 as well."""

SPARSE_KINDS = tuple(kind for kind in Kind if kind is not Kind.DENSE)


@dataclass(frozen=True)
class Configuration:
    """One line of the tables."""

    kind: Kind
    density: float
    qk_bits: int = 16
    pv_bits: int = 16

    @property
    def quantized(self) -> bool:
        """Whether any product is computed in integers."""
        return (self.qk_bits, self.pv_bits) != (16, 16)

    @property
    def label(self) -> str:
        """For people, and for files."""
        return f"{self.kind.value}, density {self.density:g}, bits {self.qk_bits}/{self.pv_bits}"


@dataclass(frozen=True, eq=False)
class Policy:
    """A way to compute every attention layer.

    select: None is the model's own attention; affines: channel_affine f32 [4, H, D] a layer,
    None for the identity.
    """

    select: Callable[[AttentionCall], Selection] | None
    config: AttentionConfig
    affines: Sequence[Tensor] | None = None

    def attend(self, call: AttentionCall) -> tuple[Tensor, float]:
        """Output f32 [B, S, H, D], and the density of the call's masks."""
        if self.select is None:
            return dense_attention(call.query, call.key, call.value, call.scale), 1.0
        selection = self.select(call)
        affine = None if self.affines is None else self.affines[call.layer]
        output = selected_attention(call, selection, self.config, affine)
        return output, float(selection.mask.float().mean())


def make_policy(configuration: Configuration, captures: Captures) -> Policy:
    """The policy, with whatever it learns from the calibration captures."""
    kind, density = configuration.kind, configuration.density
    config = AttentionConfig(
        qk_bits=configuration.qk_bits,
        pv_bits=configuration.pv_bits,
        pool_dropped=kind.pooled,
    )
    if not configuration.quantized:
        return Policy(_selector(kind, density, captures), config)
    masks = _full_masks(kind, captures) if density == 1.0 else _paro(kind, density, captures)
    return Policy(masks, config, channel_affines(captures, masks, config))


def _selector(
    kind: Kind, density: float, captures: Captures
) -> Callable[[AttentionCall], Selection] | None:
    if kind is Kind.DENSE:
        return None
    if kind is Kind.RANDOM:
        return random_masks(captures, density, seed=0)
    makers = {
        Kind.TOP_BLOCKS: best_top_blocks,
        Kind.SLIDING_WINDOWS: sliding_windows,
        Kind.SPATIAL_TEMPORAL: spatial_temporal,
    }
    if kind in makers:
        return makers[kind](captures, density)
    return _paro(kind, density, captures)


def _paro(kind: Kind, density: float, captures: Captures) -> StaticMasks:
    every, natural = captures.names, captures.names[:1]
    recipes = {
        Kind.PARO_POOLED: ParoRecipe(every, pooled=True),
        Kind.PARO_DROPPED: ParoRecipe(every, pooled=False),
        # One threshold on block sums for the whole model, as the paper has it.
        Kind.PARO_PAPER: ParoRecipe(
            AXIS_ORDERS, False, OrderMetric.PAPER, MaskMetric.MASS, Allocation.MODEL
        ),
        Kind.NATURAL_POOLED: ParoRecipe(natural, pooled=True),
        Kind.NATURAL_DROPPED: ParoRecipe(natural, pooled=False),
    }
    return paro_masks(captures, recipes[kind], density)


def _full_masks(kind: Kind, captures: Captures) -> StaticMasks:
    """Every block; in PARO's orders, which only a density below 1 can tell apart."""
    if kind is Kind.DENSE:
        return full_masks(captures)
    return attend_all(_paro(kind, ORDER_DENSITY, captures))
