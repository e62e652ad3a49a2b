"""Plan files with a false JSON document are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from .forge import Attack, assert_refused, drop, put, text

HEAD = ("layers", 1, "heads", 2)

# What is changed, and what the message must say, the place first.
ATTACKS: dict[str, tuple[Attack, str]] = {
    # the document as text
    "not JSON": (text("{", "("), "document.*not JSON"),
    "NaN": (text('"density": 0.6', '"density": NaN'), "document.*NaN"),
    "Infinity": (text('"density": 0.6', '"density": -Infinity'), "document.*-Infinity"),
    "overflow to infinity": (
        text('"density": 0.6', '"density": 1e999'),
        "calibration.density.*inf",
    ),
    "huge integer": (text('"seed": 0', f'"seed": {"9" * 5000}'), "document"),
    "large integer": (text('"seed": 0', f'"seed": {"9" * 4000}'), "calibration.seed.*huge int"),
    "duplicate key": (text('"block_q"', '"block_q": 64, "block_q"'), "document.*'block_q' twice"),
    "deep nesting": (text('"seed": 0', f'"seed": {"[" * 200_000}'), "document.*nested"),
    "no object": (text('"seed": 0', '"seed": [0]'), "calibration.seed.*integer"),
    "lone surrogate": (text("a red ball", "\\ud800"), "calibration.prompts.*surrogate"),
    "other text": (lambda f: setattr(f, "edit_text", lambda _: "[]"), "document.*JSON object"),
    # versions
    "future version": (put("format_version", value=3), "format_version.*upgrade"),
    "far future": (put("format_version", value=10**30), "format_version.*upgrade"),
    "version zero": (put("format_version", value=0), "format_version"),
    "version true": (put("format_version", value=True), "format_version"),
    "no version": (drop("format_version"), "format_version"),
    # fields
    "missing field": (drop("block_k"), "document.*'block_k'"),
    "missing nested field": (drop(*HEAD, "mass"), r"layers\[1\]\.heads\[2\]: .*'mass'"),
    "unknown field": (put("extra", value=1), "document.*'extra'"),
    "unknown nested field": (put("grid", "depth", value=1), "grid.*'depth'"),
    "record is a list": (put("grid", value=[1, 2, 3]), "grid.*JSON object"),
    "zero grid": (put("grid", "frames", value=0), r"grid\.frames"),
    "negative grid": (put("grid", "height", value=-8), r"grid\.height"),
    "grid of floats": (put("grid", "width", value=8.0), r"grid\.width.*integer"),
    "grid of booleans": (put("grid", "width", value=True), r"grid\.width.*integer"),
    "huge grid": (put("grid", "frames", value=1 << 40), r"grid\.frames"),
    "huge product": (put("grid", value={"frames": 4096, "height": 4096, "width": 4096}), "grid"),
    "grid of another size": (put("grid", "frames", value=3), "orders.*214"),
    "text without place": (put("text", "position", value="none"), r"text\.position"),
    "text nowhere known": (put("text", "position", value="middle"), r"text\.position"),
    "text of no tokens": (put("text", "count", value=0), r"text\.position"),
    "padded text first": (
        put("text", value={"count": 22, "position": "first", "padded": True}),
        r"text\.padded.*last",
    ),
    "block of 32": (put("block_q", value=32), "block_q.*64, 128.*32"),
    "block as text": (put("block_k", value="64"), "block_k"),
    "pooling as number": (put("pool_dropped", value=1), "pool_dropped"),
    "bin at pure noise": (put("bin_boundaries", value=[1000.0]), "bin_boundaries"),
    "bin past the schedule": (put("bin_boundaries", value=[1200.0]), "bin_boundaries"),
    "bin at zero": (put("bin_boundaries", value=[0.0]), "bin_boundaries"),
    "bins ascending": (put("bin_boundaries", value=[200.0, 800.0]), "bin_boundaries.*descending"),
    "bins repeated": (put("bin_boundaries", value=[500.0, 500.0]), "bin_boundaries.*descending"),
    "bin as text": (put("bin_boundaries", value=["500"]), "bin_boundaries"),
    "too many bins": (put("bin_boundaries", value=list(range(900, 0, -1))), "bin_boundaries"),
    "another count of bins": (put("bin_boundaries", value=[]), r"layers\.0: block_mask.*LZMA2"),
    "order names repeated": (put("order_names", 1, value="FHW"), "order_names.*twice"),
    "order name unprintable": (put("order_names", 1, value="\x1b[2J"), r"order_names\[1\]"),
    "order name endless": (put("order_names", 1, value="x" * 257), r"order_names\[1\].*257"),
    "an order too few": (drop("order_names", 5), "orders"),
    "config hash": (put("model", "config_hash", value="0" * 63), r"model\.config_hash"),
    "class name": (put("model", "class_name", value=""), r"model\.class_name"),
    "content hash malformed": (put("content_hash", value="F" * 64), "content_hash.*a SHA-256"),
    "content hash wrong": (put("content_hash", value="0" * 64), "content_hash.*damaged"),
    "content altered": (put("calibration", "notes", value=["fine"]), "content_hash.*damaged"),
    "captured step past the end": (
        put("calibration", "captured_steps", value=[30]),
        r"calibration\.captured_steps",
    ),
    "no steps": (put("calibration", "steps", value=0), r"calibration\.steps"),
    "measured text": (
        put("calibration", "measured", value={"psnr": "30"}),
        r"calibration\.measured\['psnr'\]",
    ),
    "prompts as text": (
        put("calibration", "prompts", value="one"),
        r"calibration\.prompts: expected a list",
    ),
    # layers
    "no layers": (put("layers", value=[]), "layers"),
    "layers as object": (put("layers", value={}), "layers"),
    "layer as text": (put("layers", 1, value="x"), r"layers\[1\].*JSON object"),
    "layer twice": (
        put("layers", 1, "name", value="blocks.0.attn1"),
        "layers.*'blocks.0.attn1' twice",
    ),
    "layer without tensors": (
        lambda f: f.document["layers"].append(f.document["layers"][1]),
        r"layers\.2\.head_order",
    ),
    "tensors without layer": (drop("layers", 1), r"layers\.1\.block_mask.*only tensors"),
    "5 bits": (put("layers", 1, "qk_bits", value=5), r"layers\.1: blocks\.1\.attn1: qk_bits"),
    "bits true": (put("layers", 1, "pv_bits", value=True), r"layers\[1\]\.pv_bits.*integer"),
    "a head too few": (drop(*HEAD), r"layers\.1\.head_order.*\[3\]"),
    "density above 1": (
        put(*HEAD, "density", value=[0.5, 1.5]),
        r"layers\[1\]\.heads\[2\]\.density\[1\]",
    ),
    "density not the mask's": (
        put(*HEAD, "density", value=[0.0, 0.0]),
        r"layers\.1: .*heads\[2\]\.density\[0\].*block_mask says",
    ),
    "mass negative": (put(*HEAD, "mass", value=[-0.1, 0.5]), r"layers\[1\]\.heads\[2\]\.mass\[0\]"),
    "error negative": (
        put(*HEAD, "predicted_error", value=[0.1, -1]),
        r"layers\[1\]\.heads\[2\]\.predicted_error\[1\]",
    ),
    "figures of other bins": (
        lambda f: f.document["layers"][1]["heads"][2].update(
            density=[1.0], mass=[1.0], predicted_error=[0.0]
        ),
        r"layers\.1: .*heads\[2\].*2 bins",
    ),
    "order is not the head's": (
        put(*HEAD, "order", value="XYZ"),
        r"layers\.1: .*heads\[2\]\.order.*head_order says",
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attack(name: str, tmp_path: Path) -> None:
    attack, message = ATTACKS[name]
    assert_refused(attack, message, tmp_path)
