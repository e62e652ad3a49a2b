"""Plan files made by hand, so that any part can be wrong, and what the reader answers."""

from __future__ import annotations

import json
import lzma
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paro_trt.errors import PlanError
from paro_trt.plan import Grid, ParoPlan, TextLayout, TextPosition, load_plan
from paro_trt.plan.mask_codec import decode_mask, encode_fine_mask, encode_mask
from paro_trt.plan.plan import describe
from tests.support.plans import small_plan

_DTYPES = {"int32": "I32", "float32": "F32", "uint8": "U8", "int64": "I64", "float16": "F16"}

# 150 tokens: three key blocks, so that a mask word has padding bits; text last; grouped heads.
PLAN = small_plan(
    grid=Grid(2, 8, 8), text=TextLayout(22, TextPosition.LAST), heads=4, kv_heads=2, density=0.6
)

# 150 tokens: three key blocks. Layer 1 has all of version 2, layer 0 nothing of it.
_WHOLE = small_plan(
    grid=Grid(2, 8, 8), text=TextLayout(22, TextPosition.LAST), heads=4, kv_heads=2, density=0.4,
    pool_dropped=True, fine=0.5, corrected=(1,), dynamic=1, qk_bits=4, rotated=(1,),
)  # fmt: skip
_PLAIN = replace(
    _WHOLE.layers[0], fine_mask=None, corrected_heads=None, dynamic_blocks=None, rotation=None
)
VERSION_2: ParoPlan = replace(_WHOLE, layers=(_PLAIN, _WHOLE.layers[1]))


@dataclass
class Forgery:
    """The parts of a plan file; each may be changed before `build`."""

    plan: ParoPlan
    document: dict[str, Any]
    tensors: dict[str, np.ndarray]
    edit_text: Callable[[str], str] = lambda text: text
    edit_header: Callable[[dict[str, Any]], Any] = lambda header: header
    edit_bytes: Callable[[bytes], bytes] = lambda header: header
    metadata: dict[str, Any] = field(default_factory=dict)
    tail: bytes = b""

    @staticmethod
    def of(plan: ParoPlan) -> Forgery:
        """An honest copy of `plan`."""
        tensors = {"orders": plan.orders.copy()}
        for i, layer in enumerate(plan.layers):
            tensors[f"layers.{i}.head_order"] = layer.head_order.copy()
            tensors[f"layers.{i}.channel_affine"] = layer.channel_affine.copy()
            tensors[f"layers.{i}.block_mask"] = _octets(encode_mask(layer.block_mask))
            if layer.fine_mask is not None:
                fine = encode_fine_mask(layer.fine_mask, layer.block_mask, plan.key_blocks)
                tensors[f"layers.{i}.fine_mask"] = _octets(fine)
            for name in ("corrected_heads", "dynamic_blocks", "rotation"):
                if getattr(layer, name) is not None:
                    tensors[f"layers.{i}.{name}"] = getattr(layer, name).copy()
        document = {**describe(plan), "content_hash": plan.content_hash()}
        return Forgery(plan, json.loads(json.dumps(document)), tensors)

    def mask(self, layer: int) -> np.ndarray:
        """The decoded mask of a layer, writable."""
        name = f"layers.{layer}.block_mask"
        shape = self.plan.layers[layer].block_mask.shape
        return decode_mask(name, self.tensors[name].tobytes(), shape).copy()

    def set_mask(self, layer: int, mask: np.ndarray) -> None:
        """Store another mask, well encoded."""
        self.set_stream(layer, encode_mask(mask))

    def set_stream(self, layer: int, stream: bytes) -> None:
        """Store any bytes in place of a mask's stream."""
        self.tensors[f"layers.{layer}.block_mask"] = _octets(stream)

    def build(self) -> bytes:
        """The file's bytes."""
        text = self.edit_text(json.dumps(self.document))
        header: dict[str, Any] = {"__metadata__": {"paro_plan": text, **self.metadata}}
        data = b""
        for name, array in self.tensors.items():
            content = array.tobytes()
            header[name] = {
                "dtype": _DTYPES[array.dtype.name],
                "shape": list(array.shape),
                "data_offsets": [len(data), len(data) + len(content)],
            }
            data += content
        encoded = self.edit_bytes(json.dumps(self.edit_header(header)).encode())
        return len(encoded).to_bytes(8, "little") + encoded + data + self.tail


def _octets(stream: bytes) -> np.ndarray:
    return np.frombuffer(stream, np.uint8)


Attack = Callable[[Forgery], object]


def assert_refused(attack: Attack, message: str, directory: Path, plan: ParoPlan = PLAN) -> None:
    """Load an attacked plan: `PlanError` names the file, then says `message` (a pattern)."""
    forgery = Forgery.of(plan)
    attack(forgery)
    assert_bytes_refused(forgery.build(), message, directory)


def assert_bytes_refused(content: bytes, message: str, directory: Path) -> None:
    """Load a file of these bytes: `PlanError` names the file, then says `message` (a pattern)."""
    path = directory / "bad.paro.safetensors"
    path.write_bytes(content)
    with pytest.raises(PlanError) as caught:
        load_plan(path)
    error, whole = caught.value, str(caught.value)
    assert error.subject.startswith(f"{path}: ")
    assert error.expected
    assert error.actual
    assert whole.isprintable()
    assert len(whole) < 600
    assert re.search(message, whole[len(str(path)) :]), whole


def put(*path: str | int, value: Any) -> Attack:
    """Replace a value in the document."""

    def attack(forgery: Forgery) -> None:
        place: Any = forgery.document
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value

    return attack


def drop(*path: str | int) -> Attack:
    """Remove a value from the document."""

    def attack(forgery: Forgery) -> None:
        place: Any = forgery.document
        for key in path[:-1]:
            place = place[key]
        del place[path[-1]]

    return attack


def text(old: str, new: str) -> Attack:
    """Replace the first occurrence of a piece of the document's text."""

    def attack(forgery: Forgery) -> None:
        assert old in json.dumps(forgery.document)
        forgery.edit_text = lambda whole: whole.replace(old, new, 1)

    return attack


def tensor(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Attack:
    """Replace a tensor by a function of itself."""

    def attack(forgery: Forgery) -> None:
        forgery.tensors[name] = change(forgery.tensors[name])

    return attack


def element(name: str, index: tuple[int, ...], value: float) -> Attack:
    """Replace an element of a tensor."""

    def change(array: np.ndarray) -> np.ndarray:
        array[index] = value
        return array

    return tensor(name, change)


def mask_word(index: tuple[int, ...], change: Callable[[int], int]) -> Attack:
    """Change a word of layer 1's mask."""

    def attack(forgery: Forgery) -> None:
        mask = forgery.mask(1)
        mask[index] = change(int(mask[index]))
        forgery.set_mask(1, mask)

    return attack


def stream(change: Callable[[bytes], bytes]) -> Attack:
    """Change the stream of layer 1's mask."""

    def attack(forgery: Forgery) -> None:
        forgery.set_stream(1, change(forgery.tensors["layers.1.block_mask"].tobytes()))

    return attack


def packed(content: bytes) -> bytes:
    """A well-formed mask stream of any content."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0}]
    return lzma.compress(content, lzma.FORMAT_RAW, filters=filters)
