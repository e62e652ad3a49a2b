"""A plan that breaks an invariant cannot be made, in Python code either."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from paro_trt.errors import PlanError
from paro_trt.plan import Grid, HeadRecord, TextLayout, TextPosition
from tests.support.plans import small_plan

PLAN = small_plan(heads=4, kv_heads=2, bins=2)
LAYER = PLAN.layers[1]
SIGNS = np.ones((2, 64), np.int32)

LAYERS: dict[str, tuple[dict[str, Any], str]] = {
    "a record too few": ({"heads": LAYER.heads[:-1]}, "heads: expected 4 records"),
    "a record of another type": ({"heads": (*LAYER.heads[:-1], None)}, r"heads\[3\].*HeadRecord"),
    "a mask of fewer heads": ({"block_mask": LAYER.block_mask[:, :3]}, "block_mask.*H = 4"),
    "a mask of no bins": ({"block_mask": LAYER.block_mask[:0]}, "block_mask.*T in 1..64"),
    "a mask of no words": ({"block_mask": LAYER.block_mask[..., :0]}, "block_mask.*shape"),
    "a mask of one bin": ({"block_mask": LAYER.block_mask[:1]}, r"heads\[0\].*1 bins"),
    "a boolean mask": ({"block_mask": LAYER.block_mask > 0}, "block_mask.*int32.*bool"),
    "a flat mask": ({"block_mask": LAYER.block_mask.ravel()}, "block_mask.*4 dimensions"),
    "wide orders": ({"head_order": LAYER.head_order.astype(np.int64)}, "head_order.*int64"),
    "orders in a list": ({"head_order": [0, 0, 0, 0]}, "head_order.*int32"),
    "no heads": ({"head_order": LAYER.head_order[:0], "heads": ()}, "head_order length"),
    "wide affine": ({"channel_affine": LAYER.channel_affine.astype(float)}, "channel_affine"),
    "bits of 12": ({"qk_bits": 12}, "qk_bits.*one of 16, 8, 4"),
    "fine blocks of fewer heads": (
        {"fine_mask": LAYER.block_mask[:, :3]},
        r"fine_mask: expected shape .*\[2, 4, 2, 1\]",
    ),
    "boolean fine blocks": ({"fine_mask": LAYER.block_mask > 0}, "fine_mask.*int32.*bool"),
    "a flag of 2": ({"corrected_heads": np.int32([0, 2, 0, 0])}, r"corrected_heads\[1\].*0 or 1"),
    "a flag of -1": ({"corrected_heads": np.int32([0, 0, 0, -1])}, r"corrected_heads\[3\].*0 or 1"),
    "flags of three heads": ({"corrected_heads": np.int32([0, 1, 1])}, r"corrected_heads: .*\[4\]"),
    "negative dynamic blocks": (
        {"dynamic_blocks": np.int32([[0, 0, 0, 0], [0, -1, 0, 0]])},
        r"dynamic_blocks\[1, 1\].*0 or more.*-1",
    ),
    "dynamic blocks of one bin": (
        {"dynamic_blocks": np.int32([[0, 0, 0, 1]])},
        r"dynamic_blocks: .*\[2, 4\]",
    ),
    "signs at 8 bits": ({"rotation": SIGNS}, "rotation: expected none where qk_bits is not 4.*8"),
    "signs of query heads": (
        {"rotation": SIGNS.repeat(2, axis=0), "qk_bits": 4},
        r"rotation: expected shape .*\[2, 64\].*\[4, 64\]",
    ),
    "boolean signs": ({"rotation": SIGNS > 0, "qk_bits": 4}, "rotation: .*int32.*bool"),
    "a sign of 3": (
        {"rotation": SIGNS * 3, "qk_bits": 4},
        r"rotation\[0, 0\]: expected -1 or 1.*3",
    ),
    "a reason that is no text": ({"bits_reason": None}, "bits_reason.*string"),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer(name: str) -> None:
    changes, message = LAYERS[name]
    with pytest.raises(PlanError, match=rf"^blocks\.1\.attn1: {message}"):
        replace(LAYER, **changes)


def test_layer_name() -> None:
    with pytest.raises(PlanError, match=r"^layer name: .*256"):
        replace(LAYER, name="")


PLANS: dict[str, tuple[dict[str, Any], str]] = {
    "grid as tuple": ({"grid": (2, 8, 8)}, "grid: expected a Grid"),
    "text as number": ({"text": 0}, "text: expected a TextLayout"),
    "model as name": ({"model": "Wan"}, "model: expected a ModelIdentity"),
    "no record": ({"calibration": None}, "calibration: expected a CalibrationRecord"),
    "layers of another type": ({"layers": (None,)}, r"layers\.0: expected a LayerPlan"),
    "other text": ({"text": TextLayout(1, TextPosition.LAST)}, r"orders: .*\[6, 129\]"),
    "other blocks": ({"block_q": 128}, r"layers\.0: blocks\.0\.attn1: block_mask.*\[2, 4, 1, 1\]"),
    "other bins": ({"bin_boundaries": ()}, r"layers\.0: blocks\.0\.attn1: block_mask"),
    "dynamic blocks above NK": (
        {"layers": (replace(LAYER, dynamic_blocks=np.full((2, 4), 3, np.int32)),)},
        r"layers\.0: blocks\.1\.attn1: dynamic_blocks\[0, 0\].*0\.\.2.*3",
    ),
    "a fine block past NK": (
        {"layers": (replace(LAYER, fine_mask=np.full_like(LAYER.block_mask, 4)),)},
        r"layers\.0: blocks\.1\.attn1: fine_mask.*past the 2 key blocks",
    ),
    "fine blocks where dropped blocks vanish": (
        {"layers": (replace(LAYER, fine_mask=~LAYER.block_mask & 3),)},
        r"layers\.0: blocks\.1\.attn1: fine_mask.*pool_dropped",
    ),
    "no orders": ({"orders": PLAN.orders[:0], "order_names": ()}, "order_names length"),
    "wide orders": ({"orders": PLAN.orders.astype(np.int64)}, "orders: expected int32"),
    "bins past the last": ({"bin_boundaries": tuple(range(900, 800, -1))}, "bin_boundaries length"),
}


@pytest.mark.parametrize("name", PLANS)
def test_plan(name: str) -> None:
    changes, message = PLANS[name]
    with pytest.raises(PlanError, match=f"^{message}"):
        replace(PLAN, **changes)


RECORDS: dict[str, tuple[Callable[[], object], str]] = {
    "grid too large": (
        lambda: Grid(1 << 12, 1 << 12, 2),
        r"frames \* height \* width: expected at most",
    ),
    "uneven figures": (lambda: HeadRecord("a", (0.1,), (0.1, 0.2), (0.0,)), "mass"),
    "no figures": (lambda: HeadRecord("a", (), (), ()), "density"),
    "mass above rounding": (lambda: HeadRecord("a", (0.1,), (1.01,), (0.0,)), r"mass\[0\]"),
    "error not finite": (
        lambda: HeadRecord("a", (0.1,), (0.1,), (float("inf"),)),
        r"predicted_error\[0\]",
    ),
    "true as a figure": (lambda: HeadRecord("a", (True,), (0.1,), (0.0,)), r"density\[0\]"),
}


@pytest.mark.parametrize("name", RECORDS)
def test_record(name: str) -> None:
    make, message = RECORDS[name]
    with pytest.raises(PlanError, match=f"^{message}"):
        make()
