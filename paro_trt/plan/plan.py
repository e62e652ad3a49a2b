"""The plan in memory: what calibration decides and export, engines and runtimes read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentError
from ..op.spec import block_count
from . import validate
from .digest import content_hash
from .limits import MAX_TIMESTEP
from .records import CalibrationRecord, Grid, HeadRecord, ModelIdentity, TextLayout


# eq=False: arrays have no single truth value; compare plans by `content_hash`.
@dataclass(frozen=True, eq=False)
class LayerPlan:
    """One attention layer. H heads, Hk key/value heads, D channels, T bins, NQ query blocks,
    W mask words; arrays are read-only.

    Args:
        name: module path, such as "blocks.0.attn1".
        head_order: int32 [H], each head's row of `ParoPlan.orders`; equal within a GQA group.
        block_mask: int32 [T, H, NQ, W], packed as `paro_trt.op.mask` says; no row is empty.
        channel_affine: float32 [4, Hk, D]: key mean, equalizer > 0, value mean, value scale > 0.
        qk_bits: 16, 8 or 4.
        pv_bits: 16, 8 or 4.
        bits_reason: why these bits.
        heads: one record for each of H heads.

    Raises:
        PlanError: any of this does not hold.
    """

    name: str
    head_order: NDArray[np.int32]
    block_mask: NDArray[np.int32]
    channel_affine: NDArray[np.float32]
    qk_bits: int
    pv_bits: int
    bits_reason: str
    heads: tuple[HeadRecord, ...]

    def __post_init__(self) -> None:
        for name, value in validate.layer_fields(self).items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True, eq=False)
class ParoPlan:
    """Orders, masks and quantization of every attention layer of one model at one token grid.

    S tokens, O orders, T bins. Compare plans by `content_hash()`.

    Args:
        orders: int32 [O, S], read-only: position j of the sequence in order o holds token
            orders[o, j]. Text tokens keep their place and sequence.
        order_names: O unique names.
        layers: at least one, with unique names.
        model: the model this plan is for.
        grid: visual tokens of a sample.
        text: text tokens in the joint sequence.
        block_q: tokens in a query block, 64 or 128.
        block_k: tokens in a key block, 64 or 128.
        pool_dropped: key blocks off the mask join the softmax as one summary token each.
        bin_boundaries: T - 1 strictly descending timesteps within (0, 1000), where 1000 is pure
            noise: bin 0 is timestep >= boundaries[0], bin t is
            boundaries[t-1] > timestep >= boundaries[t].
        calibration: how the plan came about.

    Raises:
        PlanError: any of this does not hold, or a layer does not fit the rest.
    """

    orders: NDArray[np.int32]
    order_names: tuple[str, ...]
    layers: tuple[LayerPlan, ...]
    model: ModelIdentity
    grid: Grid
    text: TextLayout
    block_q: int
    block_k: int
    pool_dropped: bool
    bin_boundaries: tuple[float, ...]
    calibration: CalibrationRecord

    def __post_init__(self) -> None:
        for name, value in validate.plan_fields(self).items():
            object.__setattr__(self, name, value)
        validate.layers_fit(self)

    @property
    def tokens(self) -> int:
        """S: tokens of the joint sequence."""
        return self.grid.tokens + self.text.count

    @property
    def bins(self) -> int:
        """T: intervals of the denoising schedule, each with its own masks."""
        return len(self.bin_boundaries) + 1

    @property
    def query_blocks(self) -> int:
        """NQ."""
        return block_count(self.tokens, self.block_q)

    @property
    def key_blocks(self) -> int:
        """NK."""
        return block_count(self.tokens, self.block_k)

    def bin_of(self, timestep: float) -> int:
        """The bin that serves a timestep in [0, 1000], in the model's units.

        Raises:
            ArgumentError: the timestep is not finite or not in the schedule.
        """
        # One unit of room, for schedulers whose float32 arithmetic ends past 1000.
        if not 0.0 <= timestep <= MAX_TIMESTEP + 1.0:
            raise ArgumentError(
                "timestep",
                expected=f"a number in [0, {MAX_TIMESTEP:g}], {MAX_TIMESTEP:g} being pure noise",
                actual=repr(timestep),
            )
        return sum(timestep < boundary for boundary in self.bin_boundaries)

    def density(self) -> float:
        """Attended blocks / all blocks, over every layer, bin and head."""
        attended = sum(int(validate.attended_blocks(layer).sum()) for layer in self.layers)
        heads = sum(len(layer.heads) for layer in self.layers)
        return attended / (heads * self.bins * self.query_blocks * self.key_blocks)

    def layer(self, name: str) -> LayerPlan:
        """The layer of this module path.

        Raises:
            ArgumentError: there is none; the message lists what exists.
        """
        for layer in self.layers:
            if layer.name == name:
                return layer
        names = [layer.name for layer in self.layers]
        some = ", ".join(names[:8]) + (f", ... ({len(names)} in all)" if len(names) > 8 else "")
        raise ArgumentError("layer", expected=f"one of {some}", actual=repr(name))

    def content_hash(self) -> str:
        """SHA-256, lower-case hex, over all content; the same before saving and after loading."""
        return content_hash(self)
