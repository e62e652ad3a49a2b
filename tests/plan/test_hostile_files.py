"""Plan files with a false container, and paths that are not files, are refused."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from paro_trt.errors import PlanError
from paro_trt.plan import load_plan

from .forge import PLAN, Attack, Forgery, assert_bytes_refused, assert_refused, packed, put

ATTACKS: dict[str, tuple[Attack, str]] = {
    "trailing bytes": (lambda f: setattr(f, "tail", b"\0"), "data.*cover"),
    "other metadata": (lambda f: f.metadata.update(format="pt"), "__metadata__"),
    "metadata of numbers": (lambda f: f.metadata.update(paro_plan=1), "paro_plan.*string"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attack(name: str, tmp_path: Path) -> None:
    attack, message = ATTACKS[name]
    assert_refused(attack, message, tmp_path)


def entry(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    """Change the header's entry of layer 1's head_order."""

    def change(header: dict[str, Any]) -> dict[str, Any]:
        header["layers.1.head_order"].update(changes)
        return header

    return change


def shifted(by: int) -> Callable[[dict[str, Any]], Any]:
    """Move the last tensor's data."""

    def change(header: dict[str, Any]) -> dict[str, Any]:
        last = header["layers.1.block_mask"]
        last["data_offsets"] = [at + by for at in last["data_offsets"]]
        return header

    return change


HEADERS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no object": (lambda h: [h], "header"),
    "no metadata": (lambda h: {k: v for k, v in h.items() if k[0] != "_"}, "__metadata__"),
    "metadata a list": (lambda h: {**h, "__metadata__": ["paro_plan"]}, "__metadata__"),
    "entry a number": (lambda h: {**h, "orders": 1}, "orders: entry"),
    "entry of more": (entry(extra=1), r"layers\.1\.head_order: entry"),
    "dtype unknown": (entry(dtype="BOOL"), r"layers\.1\.head_order: dtype"),
    "dtype a list": (entry(dtype=[]), r"layers\.1\.head_order: dtype"),
    "shape negative": (entry(shape=[-4]), r"layers\.1\.head_order: shape"),
    "shape of floats": (entry(shape=[4.0]), r"layers\.1\.head_order: shape"),
    "shape endless": (entry(shape=[1] * 1000), r"layers\.1\.head_order: shape.*length"),
    "shape overflows": (entry(shape=[1 << 62, 1 << 62]), r"layers\.1\.head_order: shape"),
    "shape larger than its data": (entry(shape=[5]), r"layers\.1\.head_order: data_offsets"),
    "offsets negative": (entry(data_offsets=[-16, 0]), r"layers\.1\.head_order: data_offsets"),
    "offsets reversed": (entry(data_offsets=[16, 0]), r"layers\.1\.head_order: data_offsets"),
    "offsets three": (entry(data_offsets=[0, 1, 2]), r"layers\.1\.head_order: data_offsets.*2"),
    "overlap": (entry(data_offsets=[0, 16]), r"overlap or leave a gap"),
    "gap": (shifted(+1), r"layers\.1\.block_mask.*overlap or leave a gap"),
    "overlap by a byte": (shifted(-1), r"layers\.1\.block_mask.*overlap or leave a gap"),
    "unprintable name": (lambda h: {**h, "\x1b[2J" * 99: 1}, "tensor: entry"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_header(name: str, tmp_path: Path) -> None:
    change, message = HEADERS[name]
    assert_refused(lambda forgery: setattr(forgery, "edit_header", change), message, tmp_path)


def test_header_with_a_key_twice(tmp_path: Path) -> None:
    def twice(header: bytes) -> bytes:
        return header.replace(b'"orders"', b'"layers.0.head_order"')

    attack: Attack = lambda forgery: setattr(forgery, "edit_bytes", twice)  # noqa: E731
    assert_refused(attack, "header.*'layers.0.head_order' twice", tmp_path)


HONEST = Forgery.of(PLAN).build()

BYTES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "header.*0 bytes"),
    "seven bytes": (HONEST[:7], "header.*7 bytes"),
    "header cut": (HONEST[:500], "header.*truncated"),
    "data cut": (HONEST[:-1], "truncated"),
    "data missing": (HONEST[: 8 + int.from_bytes(HONEST[:8], "little")], "truncated"),
    "length of everything": (b"\xff" * 8 + HONEST[8:], "header.*18446744073709551615"),
    "length over the limit": (
        (1 << 25).to_bytes(8, "little") + b"{" * (1 << 25),
        "header.*at most 16777216 bytes.*33554432",
    ),
    "length zero": (bytes(8) + HONEST[8:], "header.*JSON object"),
    "leading space": (HONEST[:8] + b" " + HONEST[9:], "header.*JSON object"),
    "not UTF-8": (HONEST[:9] + b"\xff" + HONEST[10:], "header"),
    "a pickle": (b"\x80\x04\x95" + bytes(100), "header"),
}


@pytest.mark.parametrize("name", BYTES)
def test_bytes(name: str, tmp_path: Path) -> None:
    content, message = BYTES[name]
    assert_bytes_refused(content, message, tmp_path)


def _nothing(path: Path) -> None:
    """Leave the path as it is: missing."""


def _loop(path: Path) -> None:
    path.symlink_to(path)


def _dangling(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


def _link_to_directory(path: Path) -> None:
    path.symlink_to(path.parent)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_nothing, "no such file"),
        (Path.mkdir, "regular file"),
        (os.mkfifo, "regular file"),
        (_dangling, "no such file"),
        (_link_to_directory, "regular file"),
        (_loop, "plan|read"),
    ],
)
def test_no_file(make: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.paro.safetensors"
    make(path)
    with pytest.raises(PlanError, match=f"a.paro.safetensors.*{message}"):
        load_plan(path)


def test_forbidden_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_bytes(HONEST)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(PlanError, match="Permission denied"):
        load_plan(path)


def test_impossible_names() -> None:
    for name in ("a\0b", "x" * 5000):
        with pytest.raises(PlanError):
            load_plan(name)


def peak_of_refusal(forgery: Forgery, message: str, directory: Path) -> int:
    """Bytes allocated at most while a forgery is refused, its own reading included."""
    content = forgery.build()
    tracemalloc.start()
    try:
        assert_bytes_refused(content, message, directory)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_mask_bomb_is_not_inflated(tmp_path: Path) -> None:
    forgery = Forgery.of(PLAN)
    bomb = packed(bytes(96 << 20))
    assert len(bomb) < 1 << 20
    forgery.set_stream(1, bomb)
    assert peak_of_refusal(forgery, r"layers\.1: block_mask.*more", tmp_path) < 32 << 20


def test_a_claimed_grid_allocates_nothing(tmp_path: Path) -> None:
    forgery = Forgery.of(PLAN)
    put("grid", value={"frames": 255, "height": 256, "width": 256})(forgery)
    assert peak_of_refusal(forgery, "orders", tmp_path) < 4 << 20


def test_masks_beyond_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    total = sum(layer.block_mask.nbytes for layer in PLAN.layers)
    monkeypatch.setattr("paro_trt.plan.layer.MAX_MASK_BYTES", total)
    assert_refused(lambda f: f.document.update(content_hash="0" * 64), "content_hash", tmp_path)
    monkeypatch.setattr("paro_trt.plan.layer.MAX_MASK_BYTES", total - 1)
    monkeypatch.setattr("paro_trt.plan.format.decode_mask", None)
    assert_refused(lambda _: None, f"block_mask.*at most {total - 1} bytes.*{total}", tmp_path)
