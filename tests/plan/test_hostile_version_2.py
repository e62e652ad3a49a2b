"""Plan files whose tensors or fields of version 2 are false are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from .forge import (
    PLAN,
    VERSION_2,
    Attack,
    Forgery,
    assert_refused,
    drop,
    element,
    packed,
    put,
    tensor,
)

BLOCKS = VERSION_2.bins * 4 * VERSION_2.query_blocks * VERSION_2.key_blocks
DROPPED = BLOCKS - int(VERSION_2.layers[1].attended_blocks().sum())


def octets(content: bytes) -> Attack:
    """A well-formed stream of other content in place of layer 1's fine blocks."""
    return tensor("layers.1.fine_mask", lambda _: np.frombuffer(packed(content), np.uint8))


def both(*attacks: Attack) -> Attack:
    """One after the other."""

    def attack(forgery: Forgery) -> None:
        for each in attacks:
            each(forgery)

    return attack


# What is changed, and what the message must say, the place first.
ATTACKS: dict[str, tuple[Attack, str]] = {
    "no fine blocks": (
        lambda f: f.tensors.pop("layers.1.fine_mask"),
        r"layers\.1\.fine_mask.*none",
    ),
    "no flags": (
        lambda f: f.tensors.pop("layers.1.corrected_heads"),
        r"layers\.1\.corrected_heads.*none",
    ),
    "no counts": (
        lambda f: f.tensors.pop("layers.1.dynamic_blocks"),
        r"layers\.1\.dynamic_blocks.*none",
    ),
    "fine blocks not compressed": (
        tensor("layers.1.fine_mask", lambda a: a.astype(np.int32)),
        r"layers\.1\.fine_mask.*U8",
    ),
    "fine stream empty": (
        tensor("layers.1.fine_mask", lambda a: a[:0].copy()),
        r"layers\.1: fine_mask",
    ),
    "fine stream cut": (
        tensor("layers.1.fine_mask", lambda a: a[:-1].copy()),
        r"layers\.1: fine_mask.*end after",
    ),
    "fine stream garbage": (
        tensor("layers.1.fine_mask", lambda a: a * 0 + 255),
        r"layers\.1: fine_mask.*damaged",
    ),
    "fine blocks a byte short": (
        octets(b"\1" * (-(-DROPPED // 8) - 1)),
        r"layers\.1: fine_mask.*got \d+ bytes",
    ),
    "fine blocks a byte long": (
        octets(b"\1" * (-(-DROPPED // 8) + 1)),
        r"layers\.1: fine_mask.*got more",
    ),
    "a fine block past the last": (
        octets(b"\xff" * -(-DROPPED // 8)),
        rf"layers\.1: fine_mask.*past the {DROPPED} blocks",
    ),
    "fine blocks all coarse": (
        octets(b"\0" * -(-DROPPED // 8)),
        r"layers\.1: fine_mask.*fine_summaries is true.*zeros",
    ),
    "flag of 2": (
        element("layers.1.corrected_heads", (1,), 2),
        r"layers\.1: .*corrected_heads\[1\].*0 or 1",
    ),
    "flag of -1": (
        element("layers.1.corrected_heads", (0,), -1),
        r"layers\.1: .*corrected_heads\[0\].*0 or 1",
    ),
    "flags all 0": (
        element("layers.1.corrected_heads", (1,), 0),
        r"layers\.1: corrected_heads.*mean_correction is true",
    ),
    "flags of five heads": (
        tensor("layers.1.corrected_heads", lambda _: np.ones(5, np.int32)),
        r"layers\.1\.corrected_heads.*\[4\].*\[5\]",
    ),
    "flags as floats": (
        tensor("layers.1.corrected_heads", lambda a: a.astype(np.float32)),
        r"layers\.1\.corrected_heads.*I32.*F32",
    ),
    "counts above NK": (
        element("layers.1.dynamic_blocks", (1, 2), 4),
        r"layers\.1: .*dynamic_blocks\[1, 2\].*0\.\.3",
    ),
    "counts below 0": (
        element("layers.1.dynamic_blocks", (0, 3), -1),
        r"layers\.1: .*dynamic_blocks\[0, 3\]",
    ),
    "counts of one bin": (
        tensor("layers.1.dynamic_blocks", lambda a: a[:1].copy()),
        r"layers\.1\.dynamic_blocks.*\[2, 4\].*\[1, 4\]",
    ),
    "no signs": (lambda f: f.tensors.pop("layers.1.rotation"), r"layers\.1\.rotation.*none"),
    "a sign of 2": (
        element("layers.1.rotation", (1, 5), 2),
        r"layers\.1: .*rotation\[1, 5\]: expected -1 or 1.*got 2",
    ),
    "a sign of a head that is not rotated": (
        element("layers.1.rotation", (0, 63), -1),
        r"layers\.1: .*rotation\[0, 63\]: expected 0.*got -1",
    ),
    "a row with one zero": (
        element("layers.1.rotation", (1, 7), 0),
        r"layers\.1: .*rotation\[1, 7\]: expected -1 or 1.*got 0",
    ),
    "the smallest integer": (
        element("layers.1.rotation", (1, 0), -(2**31)),
        r"layers\.1: .*rotation\[1, 0\]: expected -1 or 1.*got -2147483648",
    ),
    "signs of half the channels": (
        tensor("layers.1.rotation", lambda a: a[:, :32].copy()),
        r"layers\.1\.rotation.*\[2, 64\].*\[2, 32\]",
    ),
    "signs as floats": (
        tensor("layers.1.rotation", lambda a: a.astype(np.float32)),
        r"layers\.1\.rotation.*I32.*F32",
    ),
    "smoothed at 8 bits": (
        put("layers", 1, "qk_bits", value=8),
        r"layers\.1: .*rotation: expected none where qk_bits is not 4.*got 8",
    ),
    "smoothed with 48 channels": (
        both(
            tensor("layers.1.rotation", lambda a: a[:, :48].copy()),
            tensor("layers.1.channel_affine", lambda a: a[..., :48].copy()),
        ),
        r"layers\.1: .*rotation: expected a head_dim that is a power of two.*got 48",
    ),
    "version 1": (
        put("format_version", value=1),
        r"layers\.1\.fine_summaries: expected no field of format version 2.*version 1",
    ),
    "version 1 with the tensors alone": (
        both(
            put("format_version", value=1),
            drop("layers", 1, "fine_summaries"),
            drop("layers", 1, "mean_correction"),
            drop("layers", 1, "routing"),
            drop("layers", 1, "smoothing"),
        ),
        r"layers\.1\.corrected_heads.*only tensors.*format version 1",
    ),
    "a tensor that its layer does not have": (
        drop("layers", 1, "routing"),
        r"layers\.1\.dynamic_blocks.*only tensors.*format version 2",
    ),
    "a layer without the tensor it has": (
        put("layers", 0, "routing", value=True),
        r"layers\.0\.dynamic_blocks.*none",
    ),
    "a field that is a number": (
        put("layers", 1, "routing", value=1),
        r"layers\[1\]\.routing: expected true or false, got 1",
    ),
    "an altered plane": (
        octets(b"\1" + b"\0" * (-(-DROPPED // 8) - 1)),
        "content_hash",
    ),
    "pooling off": (put("pool_dropped", value=False), r"layers\.1: .*fine_mask.*pool_dropped"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attack(name: str, tmp_path: Path) -> None:
    attack, message = ATTACKS[name]
    assert_refused(attack, message, tmp_path, VERSION_2)


def test_version_2_of_nothing_new(tmp_path: Path) -> None:
    assert_refused(put("format_version", value=2), "format_version: expected 1", tmp_path, PLAN)


def test_planes_beyond_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = VERSION_2.layers[0].block_mask.nbytes
    monkeypatch.setattr("paro_trt.plan.layer.MAX_MASK_BYTES", 3 * words - 1)
    expected = rf"block_mask.*at most {3 * words - 1} bytes.*got {3 * words}"
    assert_refused(lambda _: None, expected, tmp_path, VERSION_2)
