"""Bugs planted in the kernels of smoothed 4-bit query x key are caught by the emulator."""

from __future__ import annotations

import pytest
import torch

from paro_trt.op.spec import AttentionConfig
from tests.support.cases import OpCase, random_inputs

from .emulator_builds import MODES
from .kernel_library import emulated_kernels, emulated_kernels_build, seen_in_modes
from .smoothing_mutants import MUTANTS, OBJECTS, UNIT
from .version_2_mutants import build_mutant

_CONFIG = AttentionConfig(
    64, 64, 4, 8, pool_dropped=True, smoothing=True,
    fine_summaries=True, mean_correction=True, routing=True,
)  # fmt: skip


@pytest.fixture(scope="module")
def calls():
    """A call of the kernels that the mutants are of, and what it gives. One of two heads of keys is
    rotated."""
    case = OpCase("ragged", 64 * 12 + 5, heads=2, kv_heads=2, density=0.6, dtype=torch.float16,
                  config=_CONFIG)  # fmt: skip
    call = (random_inputs(case, 1), case.config)
    return [call], [emulated_kernels().forward(*call, sm=80)]


@pytest.mark.long
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name.replace(" ", "-"))
def test_every_mutant_is_caught(mutant, calls, tmp_path):
    """Prints what each mode saw (pytest -s)."""
    built = emulated_kernels_build()
    objects = (built / "kernels/CMakeFiles/paro_emulated_objects.dir").rglob("*.o")
    others = [x for x in objects if not any(name in x.name for name in OBJECTS)]
    emulator = built / "emulator" / "libparo_emulator.a"
    library = build_mutant(mutant, tmp_path / "build", [*others, emulator], UNIT)
    seen = seen_in_modes(library, *calls, MODES, tmp_path, 80)
    print(mutant.name, *seen.values(), sep=" | ")
    caught = bool(set(MODES) - set(seen)) or set(seen.values()) != {"-"}
    assert caught == (mutant.name != "none"), seen
