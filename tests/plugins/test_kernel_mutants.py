"""Every bug planted in the wgmma kernels is caught by some mode of the emulator."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from paro_trt.op.spec import AttentionConfig
from paro_trt.testing.cases import OpCase, random_inputs

from .emulator_builds import MODES, ROOT
from .kernel_library import emulated_kernels
from .kernel_mutants import MUTANTS, build_mutant
from .test_kernels_sm90 import growing

# Runs a library in one mode after the other: options are read when a library is first used, and
# each copy is a library of its own.
RUN = """
import os, shutil, sys, torch
from pathlib import Path
from paro_trt import native
library, calls, modes = Path(sys.argv[1]), *torch.load(sys.argv[2], weights_only=False)
for name, mode in modes.items():
    for variable in ("PARO_EMULATOR_LATE", "PARO_EMULATOR_SEED"):
        os.environ.pop(variable, None)
    os.environ.update(mode)
    copy = library.with_name(f"{name}.so")
    shutil.copy(library, copy)
    try:
        outputs = [native.NativeLibrary(copy).forward(*call, sm=90) for call, _ in calls]
        wrong = not all(torch.equal(o, e) for o, (_, e) in zip(outputs, calls))
        print(name, "wrong result" if wrong else "-", sep=": ")
    except native.NativeError as error:
        print(name, str(error).partition("CUDA emulator: ")[2].split()[0], sep=": ")
"""


@pytest.fixture(scope="module")
def calls(worker_id, tmp_path_factory):
    """Calls and what they give, of the kernel that the mutants are of; and all modes."""
    library = emulated_kernels(worker_id)
    shape = {"heads": 1, "kv_heads": 1, "head_dim": 128, "config": AttentionConfig(128, 64)}
    # Seven steps go round a ring of five stages; the last one has a ragged block.
    long = OpCase("long", 13 * 64 + 5, density=0.9, dtype=torch.float16, **shape)
    dense = OpCase("growing", 384, density=1.0, dtype=torch.bfloat16, **shape)
    long, dense = (case.with_bits(8, 8, True) for case in (long, dense))
    arguments = [(random_inputs(long, 1), long.config), (growing(dense, 2), dense.config)]
    path = tmp_path_factory.mktemp("mutants") / "calls.pt"
    modes = {**MODES, "seeded again": {"PARO_EMULATOR_SEED": "5"}}
    modes["late-seeded again"] = {"PARO_EMULATOR_SEED": "6", "PARO_EMULATOR_LATE": "1"}
    torch.save(([(a, library.forward(*a, sm=90)) for a in arguments], modes), path)
    return path


@pytest.mark.long
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name.replace(" ", "-"))
def test_every_mutant_is_caught(mutant, calls, worker_id, tmp_path):
    """Prints what each mode saw (pytest -s)."""
    library = build_mutant(mutant, tmp_path / "build", worker_id)
    result = subprocess.run(
        [sys.executable, "-c", RUN, str(library), str(calls)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=600,
    )
    lines = result.stdout.splitlines()
    print(mutant.name, *lines, sep=" | ")
    crashed = result.returncode != 0
    seen = [line for line in lines if not line.endswith(": -")]
    assert (bool(seen) or crashed) == (mutant.name != "none"), result.stdout + result.stderr
