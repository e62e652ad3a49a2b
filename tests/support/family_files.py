"""One exported file of each family, written once in a run and read by several tests.

Half of them are in bfloat16 and half in float16, in the order of the registry.
"""

from __future__ import annotations

from collections.abc import Callable
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


IN_THE_GATE = {"cogvideox", "flux", "qwen_image", "wan"}
"""An export takes several seconds, and LTX-2's most of a minute: tests of the others are long."""

EVERY_FAMILY = [
    pytest.param(family.name, marks=() if family.name in IN_THE_GATE else pytest.mark.long)
    for family in FAMILIES
]


def first_variant(family: str) -> TinyModel:
    """The tiny model that stands for a family; skips where diffusers has none."""
    tiny = variants_of(family)[0]
    if not tiny.available:
        pytest.skip("this diffusers has no such model")
    return tiny


def export_tiny(tiny: TinyModel, dtype: torch.dtype, path: Path, seed: int = 0) -> None:
    """A file with quantized layers that pool what they drop, without a function body."""
    plan = tiny.plan(qk_bits=8, pv_bits=8, pool_dropped=True, seed=seed)
    export_onnx(tiny.loaded(seed, dtype), plan, path, body=Body.NONE)


def family_files(folder: Path) -> Callable[[str], Path]:
    """From a family's name to its file in the folder, made at the first call in any process."""

    def file_of(family: str) -> Path:
        tiny, path = first_variant(family), folder / f"{family}.onnx"
        with locked(path):
            if not path.exists():
                export_tiny(tiny, DTYPES[family], path)
        return path

    return file_of
