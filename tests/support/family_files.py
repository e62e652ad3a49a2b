"""One exported file of each family, written once in a run and read by several tests.

Half of them are in bfloat16 and half in float16, in the order of the registry. Each has one layer
of each kind: an export takes several seconds, and the time grows with the layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from paro_trt.families.registry import FAMILIES
from paro_trt.onnx_export import Body, export_onnx
from tests.native_builds import locked

from .tiny import TinyModel, variants_of

DTYPES = {
    family.name: (torch.bfloat16, torch.float16)[index % 2] for index, family in enumerate(FAMILIES)
}
"""By the family's name."""

_QUICK = ("wan", "cogvideox", "ltx_video", "sd3")

EVERY_FAMILY = [
    name if name in _QUICK else pytest.param(name, marks=pytest.mark.long) for name in DTYPES
]
"""Their names, to parametrize tests with. Exporting and building the others takes minutes."""

_LAYERS = ("num_layers", "num_single_layers", "num_refiner_layers")


def shallow_model(family: str) -> TinyModel:
    """The tiny model that stands for a family, with one layer of each kind; skips where diffusers
    has none."""
    tiny = variants_of(family)[0]
    if not tiny.available:
        pytest.skip("this diffusers has no such model")
    return replace(tiny, config=tiny.config | {n: 1 for n in _LAYERS if n in tiny.config})


def export_tiny(tiny: TinyModel, dtype: torch.dtype, path: Path, seed: int = 0) -> None:
    """A file with quantized layers that pool what they drop, and the dense body."""
    plan = tiny.plan(qk_bits=8, pv_bits=8, pool_dropped=True, seed=seed)
    export_onnx(tiny.loaded(seed, dtype), plan, path, body=Body.DENSE)


def family_files(folder: Path) -> Callable[[str], Path]:
    """From a family's name to its file in the folder, made at the first call in any process."""

    def file_of(family: str) -> Path:
        tiny, path = shallow_model(family), folder / f"{family}.onnx"
        with locked(path):
            if not path.exists():
                export_tiny(tiny, DTYPES[family], path)
        return path

    return file_of
