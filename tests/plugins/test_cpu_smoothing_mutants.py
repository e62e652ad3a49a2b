"""Bugs planted in the smoothing of the CPU backend are caught by the comparison with float64."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from paro_trt.op import native
from paro_trt.op.spec import AttentionConfig
from tests.plugins.cpu_builds import PLUGINS, run
from tests.support.cases import OpCase, random_inputs
from tests.support.numerics import compare

from .planted import Mutant

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++"),
]


MUTANTS = [
    Mutant("none", "rotation.h", "lower + upper", "lower + upper"),
    Mutant("mean not subtracted from keys", "prepare.h", " - load(mean + d));", ");"),
    Mutant("mean not subtracted from rows", "attend.h", " - load(tile.block_mean + d));", ");"),
    Mutant("absent keys less the mean", "prepare.h",
           "job.tokens_in(index);  // rows past it", "block_k;  // rows past it"),
    Mutant("logits of another block's keys", "smoothed.h",
           "scratch.key_logits + i * width", "scratch.key_logits + i / 2 * width"),
    Mutant("logits of another block's mean", "smoothed.h",
           "scratch.row_logits + i * kStripRows", "scratch.row_logits + i / 2 * kStripRows"),
    Mutant("scale of the block in place of the key's", "store_blocks.h",
           "const Scale s = scale_of_key(rows + r * head_dim, head_dim, job.call->qk_bits);",
           "const Scale s = scale_of_key(rows, count * head_dim, job.call->qk_bits);"),
    Mutant("scale of a key in full", "store_blocks.h",
           "round_to_storage(&scale, 1, PARO_BFLOAT16);", ""),
    Mutant("signs ignored", "rotation.h", "negative < 0 ? -own : own", "own"),
    Mutant("one head's signs for all", "../run_call.h",
           "call.rotation + int64_t{job.kv_head} * call.head_dim", "call.rotation"),
    Mutant("mean of rows in full", "attend.h",
           "round_in_range(mean, call.head_dim, call.dtype);", ""),
    Mutant("mean of rows before the equalizer", "attend.h", "writer.precondition(mean);", ""),
    Mutant("summary keys of 4 bits", "../head_job.h", "call->smoothing ? 8", "call->smoothing ? 4"),
    Mutant("mean row without the block's mean", "mean_row.h",
           "run.row_logits == nullptr ? 0.0f : *run.row_logits", "0.0f"),
    Mutant("mean row with residual keys", "attend_run.h",
           "run.of_mean_row == nullptr ? run : *run.of_mean_row", "run"),
    Mutant("row logits of the first strip", "attend_run.h",
           "run.row_logits + lane * kSmoothedStep + v", "run.row_logits + v"),
]  # fmt: skip


def build_mutant(mutant: Mutant, folder: Path) -> Path:
    """The CPU library, generic kernels only, from sources with the mutant."""
    shutil.copytree(PLUGINS / "cpu", folder / "cpu")
    shutil.copytree(PLUGINS / "common", folder / "common")
    mutant.plant(folder / "cpu" / "isa")
    sources = [
        folder / name
        for name in ("cpu/attention.cpp", "cpu/isa/instruction_set.cpp", "common/check.cpp",
                     "common/error.cpp")
    ]  # fmt: skip
    library = folder / "mutant.so"
    run(
        "g++", "-std=c++20", "-O1", "-fPIC", "-shared", "-w", "-pthread", "-Wno-psabi",
        "-DPARO_ISA=generic", "-DPARO_VECTOR_FLOATS=4", "-DPARO_CPU_GENERIC_ONLY",
        '-DPARO_VERSION="mutant"', f"-I{PLUGINS / 'include'}", *sources, "-o", library,
    )  # fmt: skip
    return library


def calls():
    """Both kinds of heads, more blocks than one, a block that is cut short; one in bfloat16."""
    config = AttentionConfig(
        128, 64, qk_bits=4, pv_bits=16, pool_dropped=True, mean_correction=True, smoothing=True
    )
    case = OpCase("mutant", 395, heads=4, kv_heads=2, density=0.5, config=config)
    for seed, dtype in enumerate((torch.float32, torch.bfloat16)):
        inputs = random_inputs(replace(case, dtype=dtype), seed)
        rotation = torch.ones_like(inputs.rotation)
        rotation[0, ::3] = -1
        rotation[1, 1::5] = -1
        # Means of blocks that are larger than what they leave.
        yield inputs._replace(rotation=rotation, key=inputs.key + 5), config


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name.replace(" ", "-"))
def test_every_mutant_is_caught(mutant, tmp_path):
    library = native.NativeLibrary(build_mutant(mutant, tmp_path))
    right = all(compare(library.forward(*call, 1), *call).ok for call in calls())
    assert right == (mutant.name == "none")
