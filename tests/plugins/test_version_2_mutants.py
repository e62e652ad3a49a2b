"""Bugs planted in the kernels of version 2 are caught by some mode of the emulator."""

from __future__ import annotations

import math

import pytest
import torch

from paro_trt.op.spec import AttentionConfig, AttentionInputs
from tests.support.cases import OpCase, random_inputs

from .emulator_builds import MODES
from .kernel_library import emulated_kernels, emulated_kernels_build, seen_in_modes
from .version_2_mutants import MUTANTS, build_mutant

_EVERYTHING = AttentionConfig(
    64, 64, 8, 8, pool_dropped=True, fine_summaries=True, mean_correction=True, routing=True
)


def _ties() -> tuple[AttentionInputs, AttentionConfig]:
    """A query in each block that is not a number: all errors of the block are equal."""
    config = AttentionConfig(64, 64, 8, 8, pool_dropped=True, routing=True)
    case = OpCase("ties", 384, heads=1, kv_heads=1, density=0.0, dtype=torch.float16, config=config)
    inputs = random_inputs(case, 3)
    query = inputs.query.clone()
    query[0, inputs.token_order[int(inputs.head_order[0])].long()[::64], 0, 0] = math.nan
    three = torch.full_like(inputs.dynamic_blocks, 3)
    return inputs._replace(query=query, dynamic_blocks=three), config


@pytest.fixture(scope="module")
def calls():
    """Calls of the kernels that the mutants are of, and what they give."""
    library = emulated_kernels()
    shape = {"heads": 2, "kv_heads": 1, "dtype": torch.float16}
    cases = [
        # Three fine steps in a row; query blocks in more than one warp of the correction.
        OpCase("long", 64 * 44 + 5, density=0.05, config=_EVERYTHING, **shape),
        OpCase("empty", 384, empty_rows=True, config=AttentionConfig(64, 64, 8, 8,
               mean_correction=True), **shape),
        OpCase("plain", 300, config=AttentionConfig(64, 64, 8, 8, pool_dropped=True), **shape),
    ]  # fmt: skip
    arguments = [(random_inputs(case, 1), case.config) for case in cases]
    arguments.append(_ties())
    return arguments, [library.forward(*call, sm=80) for call in arguments]


@pytest.mark.long
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name.replace(" ", "-"))
def test_every_mutant_is_caught(mutant, calls, tmp_path):
    """Prints what each mode saw (pytest -s)."""
    built = emulated_kernels_build()
    objects = (built / "kernels/CMakeFiles/paro_emulated_objects.dir").rglob("*.o")
    others = [x for x in objects if "values_s8" not in x.name and "version_2" not in x.name]
    emulator = built / "emulator" / "libparo_emulator.a"
    library = build_mutant(mutant, tmp_path / "build", [*others, emulator])
    seen = seen_in_modes(library, *calls, MODES, tmp_path, 80)
    print(mutant.name, *seen.values(), sep=" | ")
    missing = set(MODES) - set(seen)
    caught = bool(missing) or set(seen.values()) != {"-"}
    assert caught == (mutant.name != "none"), seen
