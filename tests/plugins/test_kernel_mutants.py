"""Every bug planted in the wgmma kernels is caught by some mode of the emulator."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from paro_trt.op.spec import AttentionConfig
from tests.support.cases import OpCase, random_inputs

from .emulator_builds import MODES
from .kernel_library import emulated_kernels, seen_in_modes
from .kernel_mutants import MUTANTS, build_mutant
from .test_kernels_sm90 import growing
from .test_kernels_version_2 import only_fine

MODES_TRIED = {
    **MODES,
    "seeded again": {"PARO_EMULATOR_SEED": "5"},
    "late-seeded again": {"PARO_EMULATOR_SEED": "6", "PARO_EMULATOR_LATE": "1"},
}


@pytest.fixture(scope="module")
def calls():
    """Calls of the kernels that the mutants are of, and what they give."""
    library = emulated_kernels()
    shape = {"heads": 1, "kv_heads": 1, "head_dim": 128, "dtype": torch.bfloat16}
    config = AttentionConfig(128, 64)
    # Seven steps in a ring of five slots, the last block ragged; six steps, the last of one plain
    # block and in a slot that the output overwrites; moving references.
    cases = [
        OpCase("long", 13 * 64 + 5, density=0.9, config=config, **shape),
        OpCase("staged", 11 * 64, density=1.0, config=config, **shape),
        OpCase("growing", 7 * 64, density=1.0, config=config, **shape),
        OpCase("two-query-blocks", 21 * 64, config=AttentionConfig(64, 64), **shape),
    ]
    cases = [case.with_bits(8, 8, True) for case in cases]
    arguments = [
        (growing(case, 1) if "growing" in case.name else random_inputs(case, 1), case.config)
        for case in cases
    ]
    inputs, config = arguments[-1]
    # The first of two query blocks waits for more steps of the second than the ring has slots.
    masks = torch.tensor([2**20 + 1, 2**21 - 1]).repeat(11)[:21].int().view(1, 1, 21, 1)
    arguments[-1] = inputs._replace(block_mask=masks), config
    # Tiles of a step or two: the ring holds the next one while a tile is finished.
    short = OpCase("short", 24 * 64, density=0.05, config=AttentionConfig(128, 64), **shape)
    short = short.with_bits(8, 8, False)
    arguments.append((random_inputs(short, 1), short.config))
    # Spans, then fine steps, together more than the ring has slots; fine steps alone.
    config = AttentionConfig(128, 64, 8, 8, pool_dropped=True, fine_summaries=True)
    mixed = OpCase("mixed", 64 * 150 + 5, density=0.05, config=config, **shape)
    listed = random_inputs(mixed, 1).block_mask
    listed[:, :, 3:] = 0
    arguments.append((only_fine(mixed, 1)._replace(block_mask=listed), config))
    config = replace(config, block_q=64)
    arguments.append((only_fine(replace(mixed, tokens=64 * 40, config=config), 1), config))
    return arguments, [library.forward(*call, sm=90) for call in arguments]


@pytest.mark.long
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name.replace(" ", "-"))
def test_every_mutant_is_caught(mutant, calls, tmp_path):
    """Prints what each mode saw (pytest -s)."""
    library = build_mutant(mutant, tmp_path / "build")
    seen = seen_in_modes(library, *calls, MODES_TRIED, tmp_path)
    print(mutant.name, *seen.values(), sep=" | ")
    missing = set(MODES_TRIED) - set(seen)
    caught = bool(missing) or set(seen.values()) != {"-"}
    assert caught == (mutant.name != "none"), seen
