"""Small valid plans with random content, for tests of everything that reads plans."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from paro_trt.op.mask import pack_block_mask
from paro_trt.op.spec import block_count
from paro_trt.plan import (
    CalibrationRecord,
    Grid,
    HeadRecord,
    LayerPlan,
    ModelIdentity,
    ParoPlan,
    TextLayout,
    TextPosition,
)

_AXIS_ORDERS = {
    "FHW": (0, 1, 2),
    "FWH": (0, 2, 1),
    "HFW": (1, 0, 2),
    "HWF": (1, 2, 0),
    "WFH": (2, 0, 1),
    "WHF": (2, 1, 0),
}


def axis_orders(grid: Grid, text: TextLayout) -> NDArray[np.int32]:
    """The six axis orders, in the order FHW FWH HFW HWF WFH WHF: int32 [6, S]."""
    first = text.count if text.position is TextPosition.FIRST else 0
    visual = np.arange(grid.tokens, dtype=np.int32) + first
    cube = visual.reshape(grid.frames, grid.height, grid.width)
    everything = np.arange(grid.tokens + text.count, dtype=np.int32)
    orders = np.tile(everything, (len(_AXIS_ORDERS), 1))
    for row, axes in enumerate(_AXIS_ORDERS.values()):
        orders[row, first : first + grid.tokens] = cube.transpose(axes).reshape(-1)
    return orders


def small_plan(
    *,
    grid: Grid = Grid(2, 8, 8),  # noqa: B008 (frozen)
    heads: int = 2,
    kv_heads: int | None = None,
    layers: int = 2,
    head_dim: int = 64,
    bins: int = 2,
    text: TextLayout = TextLayout(),  # noqa: B008 (frozen)
    block_q: int = 64,
    block_k: int = 64,
    density: float = 0.5,
    qk_bits: int = 8,
    pv_bits: int = 8,
    pool_dropped: bool = False,
    model: ModelIdentity | None = None,
    layer_names: tuple[str, ...] | None = None,
    identity_affine: bool = False,
    fine: float = 0.0,
    corrected: tuple[int, ...] = (),
    dynamic: int = 0,
    rotated: tuple[int, ...] | None = None,
    seed: int = 0,
) -> ParoPlan:
    """A valid plan with random orders of heads, masks and preconditioning.

    Args:
        grid: visual tokens.
        heads: query heads of each layer.
        kv_heads: key/value heads; None is `heads`.
        layers: attention layers.
        head_dim: channels of a head.
        bins: intervals of the schedule, evenly spaced.
        text: text tokens.
        block_q: tokens in a query block.
        block_k: tokens in a key block.
        density: chance of a block to be attended; blocks on the diagonal always are.
        qk_bits: of every layer.
        pv_bits: of every layer.
        pool_dropped: as in `ParoPlan`.
        model: None is a made-up one.
        layer_names: None is "blocks.{i}.attn1".
        identity_affine: channel_affine is 0, 1, 0, 1 instead of random.
        fine: chance of a dropped block to have four summary tokens; needs `pool_dropped`.
        corrected: heads of every layer that are corrected.
        dynamic: blocks that each query block of the even heads chooses at run time.
        rotated: key/value heads of every layer that smoothing rotates, which needs 4 bits; None:
            layers are not smoothed.
        seed: of all random content.
    """
    rng = np.random.default_rng(seed)
    orders = axis_orders(grid, text)
    names = layer_names or tuple(f"blocks.{i}.attn1" for i in range(layers))
    if len(names) != layers:
        raise ValueError(f"{layers} layers but {len(names)} names")
    kv_heads = heads if kv_heads is None else kv_heads
    query_blocks = block_count(orders.shape[1], block_q)
    key_blocks = block_count(orders.shape[1], block_k)

    def layer(name: str) -> LayerPlan:
        shape = (bins, heads, query_blocks, key_blocks)
        mask = (rng.random(shape) < density) | _diagonal(query_blocks, key_blocks, block_q, block_k)
        order = rng.integers(len(orders), size=kv_heads).repeat(heads // kv_heads)
        fine_mask = flags = counts = signs = None
        if fine:
            fine_mask = pack_block_mask((rng.random(shape) < fine) & ~mask)
        if corrected:
            flags = np.isin(np.arange(heads), corrected).astype(np.int32)
        if dynamic:
            counts = np.tile(np.int32([dynamic, 0] * heads)[:heads], (bins, 1))
        if rotated is not None:
            signs = np.random.default_rng(seed).choice([-1, 1], (kv_heads, head_dim))
            signs = (signs * np.isin(np.arange(kv_heads), rotated)[:, None]).astype(np.int32)
        return LayerPlan(
            name=name,
            head_order=order.astype(np.int32),
            block_mask=pack_block_mask(mask),
            channel_affine=_affine(rng, kv_heads, head_dim, identity_affine),
            qk_bits=qk_bits,
            pv_bits=pv_bits,
            bits_reason="chosen for a test",
            heads=tuple(_head(rng, order[h], mask[:, h]) for h in range(heads)),
            fine_mask=fine_mask,
            corrected_heads=flags,
            dynamic_blocks=counts,
            rotation=signs,
        )

    return ParoPlan(
        orders=orders,
        order_names=tuple(_AXIS_ORDERS),
        layers=tuple(layer(name) for name in names),
        model=model or ModelIdentity("TinyTransformer", hashlib.sha256(b"tiny").hexdigest()),
        grid=grid,
        text=text,
        block_q=block_q,
        block_k=block_k,
        pool_dropped=pool_dropped,
        bin_boundaries=tuple(1000.0 * (bins - t) / bins for t in range(1, bins)),
        calibration=CalibrationRecord(
            prompts=("a red ball rolls over a table",),
            steps=30,
            captured_steps=(0, 14, 29),
            order_metric="output-error",
            mask_metric="output-error",
            density=density,
            seed=seed,
            tool_version="0.1.0",
            notes=("random content for tests",),
            measured={"held_out_error": 0.03},
        ),
    )


def _diagonal(query_blocks: int, key_blocks: int, block_q: int, block_k: int) -> NDArray[np.bool_]:
    """Blocks that hold a token's own key: bool [NQ, NK]."""
    query = np.arange(query_blocks)[:, None] * block_q
    key = np.arange(key_blocks)[None, :] * block_k
    return (query < key + block_k) & (key < query + block_q)


def _affine(
    rng: np.random.Generator, kv_heads: int, head_dim: int, identity: bool
) -> NDArray[np.float32]:
    shape = (kv_heads, head_dim)
    zero, one = np.zeros(shape), np.ones(shape)
    if identity:
        rows = (zero, one, zero, one)
    else:
        rows = (
            rng.normal(size=shape),
            rng.uniform(0.5, 2.0, shape),
            rng.normal(size=shape),
            rng.uniform(0.5, 2.0, shape),
        )
    return np.stack(rows).astype(np.float32)


def _head(rng: np.random.Generator, order: int, mask: NDArray[np.bool_]) -> HeadRecord:
    bins = len(mask)
    return HeadRecord(
        order=tuple(_AXIS_ORDERS)[order],
        density=tuple(float(m.mean()) for m in mask),
        mass=tuple(rng.uniform(0.8, 1.0, bins).tolist()),
        predicted_error=tuple(rng.uniform(0.0, 0.1, bins).tolist()),
    )
