"""The plugin with the CUDA kernels on the CPU emulator: the whole life, two contexts at
once on two threads, the reference's output; under sanitizers in the long suite."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from paro_trt.op.spec import AttentionConfig
from tests.support.cases import OpCase, random_inputs
from tests.support.numerics import compare

from .harness import HostBuild, emulated_build, live, run, write_case

SMALL = OpCase(
    "small", 150, batch=2, heads=2, kv_heads=1, bins=2, key_length=(150, 70),
    dtype=torch.float16, config=AttentionConfig(block_q=64, block_k=64, scale=0.11),
)  # fmt: skip


LONG = pytest.param("sanitizers", marks=pytest.mark.long)


@pytest.fixture(scope="module", params=["plain", LONG])
def build(request: pytest.FixtureRequest) -> HostBuild:
    return emulated_build(request.param)


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [
        (torch.float16, (8, 8)),
        (torch.bfloat16, (8, 8)),
        (torch.float16, (16, 16)),
        (torch.bfloat16, (4, 4)),
        (torch.float16, (8, 16)),
    ],
    ids=str,
)
def test_life_ends_in_the_reference(
    build: HostBuild, dtype: torch.dtype, bits: tuple[int, int], fresh_seed: int, tmp_path: Path
) -> None:
    case = replace(SMALL, dtype=dtype).with_bits(*bits, pool_dropped=True)
    inputs = random_inputs(case, fresh_seed)
    output = live(build, write_case(tmp_path, inputs, case.config), inputs, build.emulated_library)
    comparison = compare(output, inputs, case.config)
    assert comparison.ok, comparison.failures


def test_misuse_is_answered_by_a_status_and_one_line(
    build: HostBuild, fresh_seed: int, tmp_path: Path
) -> None:
    case = SMALL.with_bits(8, 8, pool_dropped=False)
    folder = write_case(tmp_path, random_inputs(case, fresh_seed), case.config)
    said = run(build.program, "misuse", build.emulated_library, folder)
    assert ", 0 failed" in said
