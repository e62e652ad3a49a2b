"""Plan files with false tensors are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from .forge import PLAN, Attack, assert_refused, element, mask_word, packed, stream, tensor

MASK_BYTES = PLAN.layers[1].block_mask.nbytes

# What is changed, and what the message must say, the place first.
ATTACKS: dict[str, tuple[Attack, str]] = {
    "orders as floats": (tensor("orders", lambda a: a.astype(np.float32)), "orders.*I32.*F32"),
    "orders of a wrong dtype": (
        tensor("orders", lambda a: a.astype(np.int64)),
        "orders: dtype.*I64",
    ),
    "orders of a wrong shape": (
        tensor("orders", lambda a: a[:, :-1].copy()),
        r"orders.*\[6, 150\].*\[6, 149\]",
    ),
    "orders flat": (tensor("orders", lambda a: a.ravel()), "orders"),
    "token twice": (element("orders", (1, 0), 5), "orders: FWH.*permutation of 0..149.*times"),
    "token negative": (element("orders", (1, 3), -1), "orders: FWH.*token -1 at position 3"),
    "token past the end": (element("orders", (1, 3), 150), "orders: FWH.*token 150 at position 3"),
    "text moved": (
        tensor("orders", lambda a: a[:, ::-1].copy()),
        "orders: FHW.*text token 128 at position 128",
    ),
    "head_order out of range": (
        tensor("layers.1.head_order", lambda a: a * 0 + 6),
        r"layers\.1: .*head_order\[0\].*\[0, 5\]",
    ),
    "head_order negative": (
        tensor("layers.1.head_order", lambda a: a * 0 - 1),
        r"layers\.1: .*head_order\[0\]",
    ),
    "group with two orders": (
        tensor("layers.1.head_order", lambda _: np.int32([0, 1, 2, 2])),
        r"layers\.1: .*head_order.*\[0, 1\] for key/value head 0",
    ),
    "affine NaN": (
        element("layers.1.channel_affine", (0, 1, 5), np.nan),
        r"layers\.1: .*channel_affine\[0\].*nan at head 1, channel 5",
    ),
    "affine infinite": (
        element("layers.1.channel_affine", (2, 0, 0), -np.inf),
        r"layers\.1: .*channel_affine\[2\]",
    ),
    "equalizer zero": (
        element("layers.1.channel_affine", (1, 0, 9), 0.0),
        r"layers\.1: .*channel_affine\[1\].*> 0",
    ),
    "scale negative": (
        element("layers.1.channel_affine", (3, 1, 0), -1.0),
        r"layers\.1: .*channel_affine\[3\].*> 0",
    ),
    "affine of three rows": (
        tensor("layers.1.channel_affine", lambda a: a[:3].copy()),
        r"layers\.1\.channel_affine",
    ),
    "three key/value heads": (
        tensor("layers.1.channel_affine", lambda _: np.ones((4, 3, 64), np.float32)),
        r"layers\.1: .*channel_affine.*divides the 4 heads",
    ),
    "no key/value heads": (
        tensor("layers.1.channel_affine", lambda a: a[:, :0].copy()),
        r"layers\.1: .*channel_affine",
    ),
    "no channels": (
        tensor("layers.1.channel_affine", lambda a: a[..., :0].copy()),
        r"layers\.1: .*channel_affine",
    ),
    "bit past NK": (
        mask_word((1, 2, 0, 0), lambda w: w | 8),
        r"layers\.1: .*block_mask.*past the 3 key blocks",
    ),
    "sign bit past NK": (
        mask_word((0, 0, 0, 0), lambda w: w - (1 << 31)),
        r"layers\.1: .*block_mask.*past the 3 key blocks",
    ),
    "empty mask row": (
        mask_word((1, 2, 1, 0), lambda _: 0),
        r"layers\.1: .*block_mask.*bin 1, head 2, query block 1",
    ),
    "mask not compressed": (
        tensor("layers.1.block_mask", lambda a: a.astype(np.int32)),
        r"layers\.1\.block_mask.*U8",
    ),
    "mask stream empty": (stream(lambda _: b""), r"layers\.1: block_mask"),
    "mask stream cut": (stream(lambda s: s[:-1]), r"layers\.1: block_mask.*end after"),
    "mask stream garbage": (stream(lambda s: b"\xff" * len(s)), r"layers\.1: block_mask.*damaged"),
    "mask stream continued": (
        stream(lambda s: s + b"\0"),
        r"layers\.1: block_mask.*1 bytes after its end",
    ),
    "mask a byte short": (
        stream(lambda _: packed(b"\1" * (MASK_BYTES - 1))),
        r"layers\.1: block_mask.*got \d+ bytes",
    ),
    "mask a byte long": (
        stream(lambda _: packed(b"\1" * (MASK_BYTES + 1))),
        r"layers\.1: block_mask.*got more",
    ),
    "missing tensor": (
        lambda f: f.tensors.pop("layers.1.block_mask"),
        r"layers\.1\.block_mask.*none",
    ),
    "missing orders": (lambda f: f.tensors.pop("orders"), "orders.*none"),
    "unknown tensor": (
        lambda f: f.tensors.update(extra=np.zeros(3, np.int32)),
        "extra.*only tensors",
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attack(name: str, tmp_path: Path) -> None:
    attack, message = ATTACKS[name]
    assert_refused(attack, message, tmp_path)
